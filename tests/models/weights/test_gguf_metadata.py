"""Metadata of GGUF files as converters of all ages wrote them: it counts, or it is named with its key; never passed over."""

from __future__ import annotations

import math
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.hub import ModelNotFoundError, resolve_model
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.tokenizer import Tokenizer
from tests.models.gguf_writing import TOKENS, save_tiny_gguf, tiny_model
from tests.models.quantized_folders import edit_config
from tests.models.test_decoder import PROMPTS, chunked_logits

SCALING = "llama.rope.scaling."


def resolved(path: Path) -> Path:
    return resolve_model(str(path), cache_dir=path.parent / "cache", progress=lambda message: None)


def _yarn(original: int, **values: float) -> dict[str, Any]:
    return {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": original, **values}


@pytest.mark.parametrize(
    ("metadata", "meant"),
    [
        ({"llama.rope.scale_linear": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({f"{SCALING}factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        ({f"{SCALING}type": "linear", f"{SCALING}factor": 4}, {"rope_type": "linear", "factor": 4.0}),
        ({f"{SCALING}type": "linear"}, {"rope_type": "default"}),
        ({f"{SCALING}type": "none", f"{SCALING}factor": 4.0}, {"rope_type": "default"}),
        ({"llama.rope.freq_base": None}, {"rope_type": "default"}),
        ({f"{SCALING}type": "yarn", f"{SCALING}factor": 4.0}, _yarn(256)),
        ({f"{SCALING}type": "yarn", f"{SCALING}factor": 4.0, f"{SCALING}original_context_length": 64,
          f"{SCALING}attn_factor": 0.5, f"{SCALING}yarn_beta_fast": 16.0},
         _yarn(64, attention_factor=0.5 * (0.1 * math.log(4) + 1), beta_fast=16.0)),
    ],
)  # fmt: skip
def test_rotary_positions_are_scaled_as_llama_cpp_scales_them(
    metadata: dict[str, Any], meant: dict[str, Any], tmp_path: Path
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=metadata)
    model = tiny_model("llama", rope_parameters={"rope_theta": 10000.0, **meant})
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    decoder = load_decoder(resolved(tmp_path / "tiny.gguf"), torch.float32)
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 4) - expected).abs().max() <= 1e-4


def test_gemma_3_as_ollama_writes_it(tmp_path: Path) -> None:
    """Its window's base has another name, and which layers have one is told for each."""
    names = ("rope.freq_base", "rope.scaling.type", "rope.scaling.factor")
    metadata: dict[str, Any] = {f"gemma3.{name}": None for name in names} | {
        "gemma3.rope.local.freq_base": 5e3,
        "gemma3.rope.global.freq_base": 1e6,
        "gemma3.attention.sliding_window_pattern": [False, True],
    }
    values = save_tiny_gguf(tmp_path / "tiny.gguf", "F32", family="gemma3", metadata=metadata)
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }
    model = tiny_model("gemma3", layer_types=["full_attention", "sliding_attention"], rope_parameters=rope)
    model.load_state_dict(values, strict=False)
    with torch.inference_mode():
        expected = model(torch.tensor([PROMPTS[0]])).logits[0]
    decoder = load_decoder(resolved(tmp_path / "tiny.gguf"), torch.float32)
    assert (chunked_logits(ModelRunner(decoder, 64), PROMPTS[0], 4) - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("pattern", [[True], [2, 0]])
def test_a_list_of_windows_has_one_for_each_layer(pattern: list[Any], tmp_path: Path) -> None:
    metadata = {"gemma3.attention.sliding_window_pattern": pattern}
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", family="gemma3", metadata=metadata)
    with pytest.raises(ModelNotFoundError, match=r"sliding_window_pattern is array.*, it should be a list of"):
        resolved(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.block_count": "two"}, "llama.block_count is 'two', it should be a whole number"),
        ({"llama.block_count": 2.5}, "llama.block_count is 2.5, it should be a whole number"),
        ({"llama.block_count": None}, "lacks llama.block_count in its metadata"),
        ({"llama.context_length": 0}, "llama.context_length is 0, it should be a whole number of at least 1"),
        ({"llama.attention.head_count": -4}, "llama.attention.head_count is -4, it should be a whole number of at least 1"),
        ({"llama.attention.head_count": [4, 2]}, "llama.attention.head_count differs by layer"),
        ({"llama.attention.layer_norm_rms_epsilon": "x"}, "layer_norm_rms_epsilon is 'x', it should be a number"),
        ({"llama.rope.freq_base": 0.0}, "llama.rope.freq_base is 0.0, it should be a number above 0"),
        ({f"{SCALING}factor": 0.5}, "llama.rope.scaling.factor is 0.5, it should be a number of at least 1"),
        ({f"{SCALING}alpha": 2.0}, "rotary positions with scaling.alpha are not supported"),
        ({f"{SCALING}attn_factor": 2.0}, "llama.rope.scaling.attn_factor is 2.0, it should be 1 where the scaling is not yarn"),
        ({f"{SCALING}type": "yarn", f"{SCALING}yarn_ext_factor": 0.5}, "yarn_ext_factor is 0.5, it should be 1"),
        ({"general.type": "adapter"}, "holds no model: its general.type is 'adapter'"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokenizer.ggml.tokens is array"),
        ({"tokenizer.ggml.tokens": [*TOKENS, "more"], "tokenizer.ggml.token_type": None},
         "its tokenizer has 98 tokens and its embedding 97: they are of different models"),
        ({"tokenizer.ggml.merges": ["ab"]}, "tokenizer.ggml.merges has 'ab', it should be two tokens"),
        ({"tokenizer.ggml.merges": ["yy zz"]}, "tokenizer.ggml.merges has 'yy zz', it should be two tokens"),
        ({"tokenizer.ggml.merges": [1]}, "tokenizer.ggml.merges is array([1], dtype=int32), it should be a list of texts"),
        ({"tokenizer.ggml.token_type": ["x"]}, "tokenizer.ggml.token_type is ['x'], it should be a list of numbers"),
        ({"tokenizer.ggml.eos_token_id": "x"}, "tokenizer.ggml.eos_token_id is 'x', it should be a whole number"),
        ({"tokenizer.ggml.add_bos_token": 2}, "tokenizer.ggml.add_bos_token is 2, it should be true or false"),
        ({"tokenizer.ggml.pre": 3}, "tokenizer.ggml.pre is 3, it should be text"),
        ({"tokenizer.chat_template": 3}, "tokenizer.chat_template is 3, it should be text"),
        ({"tokenizer.huggingface.json": "{"}, "tokenizer.huggingface.json is not JSON"),
        ({"tokenizer.huggingface.json": "{}"}, "the tokenizer in its metadata is not one"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=metadata)
    with pytest.raises(ModelNotFoundError) as raised:
        resolved(tmp_path / "tiny.gguf")
    assert str(raised.value).startswith(f"{tmp_path}/tiny.gguf can't be served: {tmp_path}/tiny.gguf")
    assert message in str(raised.value)
    assert not list((tmp_path / "cache" / "gguf").glob("[!.]*"))  # nothing is kept of it


def test_a_bias_that_all_qwen_2_models_have_is_missed(tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", family="qwen2", without=("blk.1.attn_k.bias",))
    with pytest.raises(ModelNotFoundError, match=r"lacks blk\.1\.attn_k\.bias: is it a whole model\?"):
        resolved(tmp_path / "tiny.gguf")


def test_a_template_for_tools_is_taken_too(tmp_path: Path) -> None:
    templates = {
        "tokenizer.chat_template": "{{ messages[0].content }}",
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=templates)
    tokenizer = Tokenizer.from_folder(resolved(tmp_path / "tiny.gguf"))
    assert (tokenizer.render_chat([("user", "a")]), tokenizer.tool_template) == ("a", "{{ tools }}")


def test_odd_tokens_are_warned_of(tmp_path: Path) -> None:
    tokens = [*TOKENS[:-1], "ab"]
    metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.bos_token_id": 4294967295}
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=metadata)
    said: list[str] = []
    folder = resolve_model(str(tmp_path / "tiny.gguf"), cache_dir=tmp_path / "cache", progress=said.append)
    warnings = [message for message in said if message.startswith("warning: ")]
    assert len(warnings) == 2
    assert "1 tokens whose text another one has, 'ab' for one" in warnings[0]
    assert "tokenizer.ggml.bos_token_id is 4294967295, but there are 97 tokens" in warnings[1]
    assert Tokenizer.from_folder(folder).encode("ab") == [96]


def text(content: str) -> bytes:
    return struct.pack("<Q", len(content)) + content.encode()


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ((0, 0), "b begins at byte 0 of the weights, inside another tensor"),
        ((0, 40), "b begins at byte 40 .*multiple of"),
    ],
)
def test_tensors_do_not_overlap(offsets: tuple[int, int], message: str, tmp_path: Path) -> None:
    tensors = [text(name) + struct.pack("<IQIQ", 1, 8, 0, at) for name, at in zip("ab", offsets, strict=True)]
    header = b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + b"".join(tensors)
    (tmp_path / "odd.gguf").write_bytes(header + bytes(128))
    with pytest.raises(UnsupportedModelError, match=message):
        GgufFile(tmp_path / "odd.gguf")


def test_a_key_twice_is_no_metadata(tmp_path: Path) -> None:
    value = text("general.name") + struct.pack("<I", 8) + text("x")
    (tmp_path / "odd.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + value * 2 + bytes(32))
    with pytest.raises(UnsupportedModelError, match=r"it has general\.name twice"):
        GgufFile(tmp_path / "odd.gguf")


@pytest.mark.parametrize("alignment", [8, 16, 64, 256])
def test_tensors_lie_where_the_files_alignment_puts_them(alignment: int, tmp_path: Path) -> None:
    import gguf

    tensors = {name: np.arange(5, dtype=np.float32) + index for index, name in enumerate("abc")}
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_custom_alignment(alignment)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "t.gguf")
    for name, tensor in tensors.items():
        assert file.tensors[name].data.tobytes() == tensor.tobytes()


def test_a_file_without_a_suffix_is_told_by_how_it_begins(tmp_path: Path) -> None:
    """As Ollama keeps them."""
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    (tmp_path / "tiny.gguf").rename(tmp_path / "sha256-0123")
    assert Tokenizer.from_folder(resolved(tmp_path / "sha256-0123")).encode("ab") == [91]
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(ModelNotFoundError, match=r"notes\.txt' is a file and no GGUF file: give the folder it lies in"):
        resolved(tmp_path / "notes.txt")


def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    """Also where the new one has the size and the time of the old one, as after ``cp -p`` and ``rsync -t``."""
    path = tmp_path / "tiny.gguf"
    save_tiny_gguf(path, "Q8_0")
    before = path.stat()
    assert Tokenizer.from_folder(resolved(path)).encode("abcd") == [91, 92]
    save_tiny_gguf(path, "Q8_0", metadata={"tokenizer.ggml.merges": ["c d", "a b", "Ġ a", "Ġa b"],
                                           "tokenizer.ggml.tokens": [*TOKENS[:91], "cd", "ab", *TOKENS[93:]]})  # fmt: skip
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert Tokenizer.from_folder(resolved(path)).encode("abcd") == [92, 91]


def test_what_is_for_seeing_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    save_tiny_gguf(tmp_path / "model" / "tiny.gguf", "Q8_0")
    (tmp_path / "model" / "mmproj-tiny.gguf").write_bytes(b"GGUF")
    load_decoder(resolve_model(str(tmp_path / "model"), cache_dir=tmp_path / "cache", progress=print), torch.float32)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("")])
def test_a_damaged_folder_of_the_cache_is_named_with_the_remedy(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "Q8_0")
    folder = resolved(tmp_path / "tiny.gguf")
    damage(folder / "config.json")
    with pytest.raises(
        ModelNotFoundError, match=r"made from .*tiny\.gguf, is damaged \(.*remove it, and it is made anew"
    ):
        resolved(tmp_path / "tiny.gguf")
    shutil.rmtree(folder)
    assert resolved(tmp_path / "tiny.gguf") == folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 8, "head_dim": 8, "num_key_value_heads": 4},
         r"config\.json says num_attention_heads 8 and model\.gguf has 4: they are of different models"),
        ({"num_attention_heads": 4, "head_dim": 16, "num_key_value_heads": 1}, r"says num_key_value_heads 1 and model\.gguf has 2"),
        ({"architectures": ["Qwen3ForCausalLM"]}, r"says architectures Qwen3ForCausalLM and model\.gguf has LlamaForCausalLM"),
        ({"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4}, None),  # its files are called Llama's
        ({"architectures": ["BloomForCausalLM"]}, r"architecture BloomForCausalLM is not supported"),
        ({}, None),
    ],
)  # fmt: skip
def test_a_configuration_beside_the_file_is_of_the_same_model(
    changes: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32")
    folder = resolved(tmp_path / "tiny.gguf")
    edit_config(folder, **changes)
    if message is None:
        load_decoder(folder, torch.float32)
        return
    with pytest.raises(UnsupportedModelError, match=message):
        load_decoder(folder, torch.float32)
