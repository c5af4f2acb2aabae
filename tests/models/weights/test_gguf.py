"""GGUF files: config, weights and outputs are those of the model that they were written from, whatever its family and types."""

from __future__ import annotations

import itertools
import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.rotary_spec import Llama3Scaling
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders import gguf_model
from specgrove.models.folders.hub import ModelNotFoundError, resolve_model
from specgrove.models.folders.model_files import quantization_of
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.models.weights.checkpoint import ALL
from specgrove.models.weights.formats.gguf_checkpoint import GgufCheckpoint
from specgrove.models.weights.formats.gguf_config import config_of_gguf
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.opening import open_checkpoint
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.tokenizer import Tokenizer
from tests.conftest import save_tiny_llama
from tests.models.gguf_writing import SUPER_BLOCK_SIZES, SUPER_BLOCK_TYPES, save_tiny_gguf, tiny_model
from tests.models.quantized_folders import DequantisingWeights, values_of
from tests.models.test_decoder import PROMPTS, chunked_logits

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
# Their weights are read as those of the others.
MORE_FAMILIES = ("gemma2", "granite")
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")
KEPT = {"Q8_0": "gguf, 8 bits", "Q4_0": "gguf, 4 bits", "Q4_1": "gguf, 4 bits"}


def resolved(path: Path, cache: Path) -> Path:
    return resolve_model(str(path), cache_dir=cache, progress=print)


@pytest.mark.parametrize(
    ("family", "kind"),
    [*itertools.product(FAMILIES, TYPES), *itertools.product(MORE_FAMILIES, ("F32", "Q8_0", "Q4_K"))],
)
def test_weights_and_logits_are_those_that_were_written(family: str, kind: str, tmp_path: Path) -> None:
    values = save_tiny_gguf(tmp_path / "tiny.gguf", kind, family=family)
    folder = resolved(tmp_path / "tiny.gguf", tmp_path / "cache")
    with open_checkpoint(folder) as checkpoint:
        assert set(checkpoint.names()) == set(values)
        for name, expected in values.items():
            assert torch.equal(checkpoint.tensor(name).float(), expected)
            assert checkpoint.shape_of(name) == tuple(expected.shape)
            assert torch.equal(checkpoint.tensor(name, slice(3, 19)).float(), expected[3:19])
            if expected.ndim == 1:
                continue
            weight = checkpoint.weight(name, slice(3, 19), slice(32, 64))
            assert isinstance(weight, QuantizedWeight) == (kind in KEPT)
            assert torch.equal(values_of(weight), expected[3:19, 32:64])
    model = tiny_model(family, **(SUPER_BLOCK_SIZES if kind in SUPER_BLOCK_TYPES else {}))
    model.load_state_dict(values, strict=family not in ("gemma2", "gemma3", "granite"))  # whose heads are tied
    decoder = load_decoder(folder, torch.float32, store=DequantisingWeights())
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 4) - expected).abs().max() <= 1e-4
    load_decoder(folder, torch.bfloat16)
    is_plain = kind in ("F32", "F16", "BF16")
    assert quantization_of(folder) == KEPT.get(
        kind, None if is_plain else f"gguf, {kind}, dequantised when it is loaded"
    )


@pytest.mark.parametrize("settings", [{"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_tied_heads_and_biases_are_read_from_the_tensors(settings: dict[str, Any], tmp_path: Path) -> None:
    values = save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0", **settings)
    folder = resolved(tmp_path / "tiny.gguf", tmp_path / "cache")
    model = tiny_model("llama", **settings)
    model.load_state_dict(values, strict="mlp_bias" in settings)
    decoder = load_decoder(folder, torch.float32, store=DequantisingWeights())
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 4) - expected).abs().max() <= 1e-4


def test_what_has_no_kernel_is_rounded_to_the_type_that_is_asked_for(tmp_path: Path) -> None:
    values = save_tiny_gguf(tmp_path / "tiny.gguf", "Q4_K", family="qwen2")
    name = "model.layers.0.mlp.up_proj.weight"
    checkpoint = GgufCheckpoint(tmp_path / "tiny.gguf", torch.bfloat16)
    assert torch.equal(checkpoint.weight(name, ALL, ALL), values[name].bfloat16())
    assert checkpoint.tensor("model.norm.weight").dtype == torch.float32


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_files_are_quantised_anew_when_that_is_asked_for(quantization: str, tmp_path: Path) -> None:
    values = save_tiny_gguf(tmp_path / "tiny.gguf", "Q6_K", family="qwen2")
    folder = resolved(tmp_path / "tiny.gguf", tmp_path / "cache")
    quantized = ensure_quantized(folder, quantization, tmp_path / "cache", print)
    assert ensure_quantized(folder, quantization, tmp_path / "cache", print) == quantized != folder
    bits = int(quantization[3:])
    assert quantization_of(quantized) == f"specgrove, {bits} bits"
    with open_checkpoint(quantized) as checkpoint:
        for name, expected in values.items():
            if expected.ndim == 1 or name == "model.embed_tokens.weight":
                assert (checkpoint.tensor(name).float() - expected).abs().max() <= 0.004 * expected.abs().max()
                continue
            weight = checkpoint.weight(name, ALL, ALL)
            assert isinstance(weight, QuantizedWeight)
            assert weight.bits == (8 if name == "lm_head.weight" else bits)
            assert (values_of(weight) - expected).abs().max() <= expected.abs().max() / (1 << weight.bits - 1)
    load_decoder(quantized, torch.bfloat16)


def test_a_line_says_what_is_made_of_the_weights(tmp_path: Path) -> None:
    notes = {}
    for kind in ("F16", "Q8_0", "Q5_K"):
        save_tiny_gguf(tmp_path / f"{kind}.gguf", kind, family="qwen2")
        folder = resolved(tmp_path / f"{kind}.gguf", tmp_path / "cache")
        notes[kind] = gguf_model.weights_note(folder, "bfloat16")
    assert notes["F16"] == "weights: 0.0 GB in a GGUF file, not quantised, computed in bfloat16"
    assert notes["Q8_0"] == "weights: Q8_0 in a GGUF file, kept at their size, 0.0 GB"
    assert notes["Q5_K"] == (
        "weights: Q5_K in a GGUF file of 0.0 GB, dequantised to bfloat16, 0.0 GB (--quantization int8 takes less)"
    )
    quantized = ensure_quantized(folder, "int8", tmp_path / "cache", print)
    assert gguf_model.weights_note(quantized, "bfloat16") == (
        "weights: Q5_K of a GGUF file, re-quantised to 8 bits, 0.0 GB"
    )
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]  # as the model's own file has it
    (folder / "config.json").write_text(json.dumps(config))
    assert gguf_model.weights_note(folder, "bfloat16") == notes["Q5_K"]
    assert gguf_model.weights_note(save_tiny_llama(tmp_path / "llama", seed=0), "bfloat16") is None


def test_files_of_that_many_bits_are_not_quantised_again(tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    folder = resolved(tmp_path / "tiny.gguf", tmp_path / "cache")
    assert ensure_quantized(folder, "int8", tmp_path / "cache", print) == folder
    assert ensure_quantized(folder, "int4", tmp_path / "cache", print) != folder


def test_the_folder_is_made_once_and_is_a_model_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    cache, messages = tmp_path / "cache", []
    folder = resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=cache, progress=messages.append)
    assert messages
    monkeypatch.setattr(gguf_model, "write_config_and_tokenizer", None)
    assert resolved(tmp_path / "tiny.gguf", cache) == folder
    assert resolved(folder, cache) == folder
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "it.gguf").write_bytes((tmp_path / "tiny.gguf").read_bytes())
    monkeypatch.undo()
    assert resolved(tmp_path / "only", cache).parent == cache / "gguf"
    config = json.loads((folder / "config.json").read_text())
    assert (config["rms_norm_eps"], config["vocab_size"], config["eos_token_id"]) == (1e-6, 97, 0)


def test_running_does_not_need_the_gguf_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q5_1", family="qwen3")
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    load_decoder(resolved(tmp_path / "tiny.gguf", tmp_path / "cache"), torch.float32)


def test_all_parts_of_a_split_file_are_read(tmp_path: Path) -> None:
    values = save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0", family="qwen2", split_max_tensors=10)
    parts = sorted(tmp_path.glob("tiny-*-of-00003.gguf"))
    assert len(parts) == 3
    folder = resolved(parts[1], tmp_path / "cache")  # any of them names the model
    assert resolved(tmp_path, tmp_path / "cache") != tmp_path
    assert resolved(folder, tmp_path / "cache") == folder
    with open_checkpoint(folder) as checkpoint:
        for name, expected in values.items():
            assert torch.equal(checkpoint.tensor(name), expected)
    parts[2].rename(tmp_path / "elsewhere")
    for path in (parts[0], parts[2], tmp_path):
        with pytest.raises(ModelNotFoundError, match=r"tiny-00003-of-00003\.gguf is not beside it: fetch all parts"):
            resolved(path, tmp_path / "cache")
    parts[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelNotFoundError, match=r"one of 3 parts: name them as they were published"):
        resolved(tmp_path / "renamed.gguf", tmp_path / "cache")


def test_parts_of_different_models_are_no_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_tiny_gguf(tmp_path / name / "m.gguf", "Q8_0", split_max_tensors=14 if name == "a" else 12)
    (tmp_path / "a" / "m-00002-of-00002.gguf").write_bytes((tmp_path / "b" / "m-00002-of-00002.gguf").read_bytes())
    with pytest.raises(ModelNotFoundError, match=r"which another part has|not of one model"):
        resolved(tmp_path / "a" / "m-00001-of-00002.gguf", tmp_path / "cache")


def test_what_can_not_be_served_is_named(tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def refused(name: str, text: str) -> None:
        with pytest.raises(ModelNotFoundError, match=text):
            resolved(tmp_path / name, cache)

    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    refused("bad.gguf", r"bad\.gguf can't be served: .* GGUF version 0")
    (tmp_path / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused("pointer.gguf", r"is no GGUF file: it begins with b'vers'")
    (tmp_path / "empty.gguf").write_bytes(b"")
    refused("empty.gguf", r"empty\.gguf can't be read as a GGUF file")
    save_tiny_gguf(tmp_path / "whole.gguf", "Q8_0")
    content = (tmp_path / "whole.gguf").read_bytes()
    for num_bytes in (20, 200, 3000, len(content) // 2, len(content) - 1000):
        (tmp_path / "cut.gguf").write_bytes(content[:num_bytes])
        refused("cut.gguf", r"cut\.gguf is (a )?truncated")
    save_tiny_gguf(tmp_path / "lacking.gguf", "Q8_0", without=("blk.1.ffn_up.weight",))
    refused("lacking.gguf", r"lacks blk\.1\.ffn_up\.weight: is it a whole model\?")
    save_tiny_gguf(tmp_path / "more.gguf", "Q8_0", extra={"blk.0.ffn_gate_inp.weight": np.ones((2, 2), np.float32)})
    refused("more.gguf", r"has a tensor blk\.0\.ffn_gate_inp\.weight, which no llama has")
    save_tiny_gguf(tmp_path / "rare.gguf", "Q8_0", extra={"blk.0.attn_q.bias": np.ones(64, np.int32)})
    refused("rare.gguf", r"blk\.0\.attn_q\.bias: the type I32 is not read, only F32, .* are")
    save_tiny_gguf(tmp_path / "other.gguf", "Q8_0", metadata={"general.architecture": "bloom"})
    refused("other.gguf", r"architecture 'bloom' is not supported, only llama, qwen2, qwen3, granite, gemma2, gemma3")
    save_tiny_gguf(tmp_path / "headless.gguf", "Q8_0", metadata={"llama.attention.head_count_kv": 0})
    refused("headless.gguf", r"llama\.attention\.head_count_kv is 0, it should be a whole number of at least 1")
    refused(".", r"several GGUF files: name one of bad\.gguf, ")
    assert not list((cache / "gguf").glob("[!.]*"))


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


TENSOR = text("t") + struct.pack("<IQIQ", 1, 4, 0, 0)  # four numbers of 32 bits


@pytest.mark.parametrize(
    ("values", "tensors", "message"),
    [
        ([text("x") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000], [], "is a truncated or broken GGUF file"),
        ([text("general.alignment") + struct.pack("<IIQ", 9, 4, 2) + bytes(8)], [], "general.alignment is array"),
        ([text("split.count") + struct.pack("<I", 8) + text("two")], [], "split.count is 'two', it should be a whole number"),
        ([text("split.tensors.count") + struct.pack("<IIQ", 9, 4, 2) + bytes(8)], [], "split.tensors.count is array"),
        ([], [TENSOR, TENSOR], "it has t twice"),
    ],
    ids=["nested", "alignment", "count", "counts", "twice"],
)  # fmt: skip
def test_headers_that_no_writer_makes_are_refused(
    values: list[bytes], tensors: list[bytes], message: str, tmp_path: Path
) -> None:
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values))
    (tmp_path / "odd.gguf").write_bytes(header + b"".join([*values, *tensors]) + bytes(64))
    with pytest.raises(UnsupportedModelError, match=message):
        GgufFile(tmp_path / "odd.gguf")


def test_llama_3s_rope_scaling_is_recognised_by_its_divisors(tmp_path: Path) -> None:
    wavelengths = 2 * math.pi * 10000.0 ** (np.arange(0, 16, 2) / 16)
    ramp = np.clip((8192 / wavelengths - 1) / 3, 0, 1)
    divisors = (1 / ((1 - ramp) / 32 + ramp)).astype(np.float32)
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", extra={"rope_freqs.weight": divisors})
    folder = resolved(tmp_path / "tiny.gguf", tmp_path / "cache")
    rotary = read_spec(folder).layers[0].rotary
    assert rotary is not None
    assert rotary.scaling == Llama3Scaling(pytest.approx(32.0), 1.0, 4.0, 8192)
    load_decoder(folder, torch.float32)
    save_tiny_gguf(tmp_path / "odd.gguf", "F32", extra={"rope_freqs.weight": divisors[::-1].copy()})
    with pytest.raises(UnsupportedModelError, match=r"rope_freqs\.weight is not Llama 3's scaling"):
        config_of_gguf(GgufFile(tmp_path / "odd.gguf"))


@pytest.fixture(scope="session")
def demo_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that the demo model is made from."""
    from specgrove.models.folders import demo

    try:
        return demo.fetch_demo_gguf(tmp_path_factory.mktemp("demo"), print)
    except (demo.DemoModelError, zipfile.BadZipFile) as error:
        pytest.skip(str(error))


@pytest.mark.slow  # tiny files of every family and type are read above
def test_the_demo_models_file_is_the_demo_model(demo_gguf: Path, tmp_path: Path) -> None:
    """In bfloat16 every weight is bit for bit the converted model's, and so are config and tokenizer."""
    cache = Path.home() / ".cache" / "specgrove"
    demo_folder = resolve_model("smollm2-135m-instruct", cache_dir=cache, progress=print)
    folder = resolve_model(str(demo_gguf), cache_dir=tmp_path, progress=print)
    with open_checkpoint(demo_folder) as converted, open_checkpoint(folder) as direct:
        assert set(converted.names()) == set(direct.names())
        for name in converted.names():
            expected = converted.tensor(name)
            assert torch.equal(direct.tensor(name).to(torch.bfloat16), expected.to(torch.bfloat16))
            if expected.ndim == 2:
                weight = direct.weight(name, ALL, ALL)
                assert isinstance(weight, QuantizedWeight)
                assert torch.equal(weight.dequantized().to(torch.bfloat16), expected)
    assert read_spec(folder) == read_spec(demo_folder)
    ours, theirs = Tokenizer.from_folder(folder), Tokenizer.from_folder(demo_folder)
    assert ours.vocab_sha256 == theirs.vocab_sha256
    text = "It costs 1,234.50 €;\n\n\tdéjà vu? 你好 <|im_end|> def f(x):\r\n    return x"
    assert ours.encode(text) == theirs.encode(text)
    templates = [(place / "chat_template.jinja").read_text() for place in (demo_folder, folder)]
    assert templates[0] == templates[1]
