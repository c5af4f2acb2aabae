"""What a GGUF file's metadata says beyond the usual: it counts, or it is refused by its key where it would change the answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.gguf_model import write_config_and_tokenizer
from specgrove.models.folders.recommended_sampling import recommended_sampling_of
from specgrove.models.weights.formats.gguf_config import config_of_gguf
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.tokenizer import ChatOptions, Tokenizer
from tests.models.gguf_writing import save_tiny_gguf


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.logit_scale": 0.1}, "llama.logit_scale of 0.1 is not supported"),
        ({"llama.embedding_scale": 12.0}, "llama.embedding_scale of 12 is not supported"),
        ({"llama.final_logit_softcapping": 30.0}, "llama.final_logit_softcapping of 30 is not"),
        ({"llama.attention.causal": False}, "llama.attention.causal of 0 is not supported"),
        ({"llama.attention.clamp_kqv": 8.0}, "llama.attention.clamp_kqv of 8 is not supported"),
        ({"llama.attention.scale": 0.5}, "llama.attention.scale of 0.5 is not supported"),
        ({"llama.attention.new_kind": 1}, "llama.attention.new_kind is not known, and may not be left out"),
        ({"llama.attention.key_length_swa": 8}, "heads of another size in sliding layers"),
    ],
)
def test_what_would_change_the_answers_is_not_left_out(metadata: dict[str, Any], message: str, tmp_path: Path) -> None:
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=metadata)
    with pytest.raises(UnsupportedModelError, match=re.escape(message)):
        config_of_gguf(GgufFile(tmp_path / "tiny.gguf"))


def test_values_that_change_nothing_and_windows_are_taken(tmp_path: Path) -> None:
    neutral = {"logit_scale": 1.0, "attention.causal": 1, "attention.scale": 0.25, "attn_logit_softcapping": 0.0}
    metadata = {f"llama.{key}": value for key, value in neutral.items()} | {"llama.attention.sliding_window": 100}
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=metadata)
    assert config_of_gguf(GgufFile(tmp_path / "tiny.gguf"))["max_position_embeddings"] == 100
    save_tiny_gguf(tmp_path / "gemma.gguf", "F32", family="gemma3", metadata={"gemma3.attention.scale": 0.5})
    assert config_of_gguf(GgufFile(tmp_path / "gemma.gguf"))["query_pre_attn_scalar"] == 4.0


def _config_of(path: Path, family: str, metadata: dict[str, Any], **settings: Any) -> dict[str, Any]:
    save_tiny_gguf(path, "F32", family=family, metadata=metadata, **settings)
    return config_of_gguf(GgufFile(path))


def test_what_gemma_2_leaves_out_is_as_in_llama_cpp(tmp_path: Path) -> None:
    names = ("attn_logit_softcapping", "final_logit_softcapping", "attention.sliding_window")
    config = _config_of(tmp_path / "a.gguf", "gemma2", {f"gemma2.{name}": None for name in names})
    assert (config["attn_logit_softcapping"], config["final_logit_softcapping"]) == (50.0, 30.0)
    assert (config["sliding_window"], config["max_position_embeddings"]) == (4096, 256)
    assert config["layer_types"] == ["sliding_attention", "full_attention"]
    assert config["query_pre_attn_scalar"] == 16
    of_27b = {"gemma2.block_count": 46, "gemma2.embedding_length": 96}
    assert _config_of(tmp_path / "b.gguf", "gemma2", of_27b)["query_pre_attn_scalar"] == 24
    with pytest.raises(UnsupportedModelError, match="attn_logit_softcapping"):
        _config_of(tmp_path / "c.gguf", "gemma2", {"gemma2.attn_logit_softcapping": 0.0})
    with pytest.raises(UnsupportedModelError, match="logit_scale of 2 is not supported"):
        _config_of(tmp_path / "d.gguf", "gemma2", {"gemma2.logit_scale": 2.0})


def test_granites_factors_of_zero_are_none(tmp_path: Path) -> None:
    zeros = {f"granite.{name}": 0.0 for name in ("attention.scale", "embedding_scale", "residual_scale")}
    config = _config_of(tmp_path / "a.gguf", "granite", zeros | {"granite.logit_scale": None})
    names = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")
    assert [config[name] for name in names] == [0.25, 1.0, 1.0, 1.0]
    with pytest.raises(UnsupportedModelError, match=r"rope\.scaling\.finetuned of false"):
        _config_of(tmp_path / "b.gguf", "granite", {"granite.rope.scaling.finetuned": False})


def test_templates_by_name_and_recommended_sampling_are_kept(tmp_path: Path) -> None:
    metadata = {
        "tokenizer.chat_template": "said {{ messages[0].content }}",
        "tokenizer.chat_template.tool_use": "tools {{ messages[0].content }}",
        "tokenizer.chat_templates": ["tool_use"],
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "general.sampling.top_p": "high",
    }
    save_tiny_gguf(tmp_path / "tiny.gguf", "F32", metadata=metadata)
    (tmp_path / "made").mkdir()
    write_config_and_tokenizer(GgufFile(tmp_path / "tiny.gguf"), tmp_path / "made", print)
    tokenizer = Tokenizer.from_folder(tmp_path / "made")
    assert tokenizer.render_chat([("user", "x")]) == "said x"
    assert tokenizer.render_chat([("user", "x")], ChatOptions(template_kwargs={"tools": [{}]})) == "tools x"
    assert recommended_sampling_of(tmp_path / "made") == {"temperature": 0.6, "top_k": 20}
