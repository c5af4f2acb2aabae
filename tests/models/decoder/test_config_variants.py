"""Configurations as public checkpoints have them: logits are transformers', or what is wrong is named before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from specgrove.files.json_files import JsonFileError
from specgrove.models.decoder.family import read_spec
from specgrove.models.errors import UnsupportedModelError
from specgrove.program.loading import load_decoder
from specgrove.program.ops import Embed
from specgrove.runtime.model_runner import ModelRunner
from tests.models.families import save_tiny, tiny
from tests.models.test_decoder import chunked_logits

PROMPT = [(7 * i + 3) % 97 for i in range(40)]
WEIGHTS = "model.safetensors"


def edit(folder: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    path = folder / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key not in without}
    path.write_text(json.dumps(config | changes))


def without_tensors(folder: Path, is_left_out: Callable[[str], bool]) -> None:
    tensors = {name: tensor for name, tensor in load_file(folder / WEIGHTS).items() if not is_left_out(name)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def logits_of(folder: Path, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return chunked_logits(ModelRunner(load_decoder(folder, dtype), 64), PROMPT, 7)


def transformers_logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([PROMPT])).logits[0]
    return logits


_KINDS = ["full_attention", "sliding_attention", "full_attention"]
_SLIDING = {"use_sliding_window": True, "sliding_window": 4}
LIKE_TRANSFORMERS: list[tuple[str, dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ("qwen3", {"head_dim": 128}, {}, ("head_dim",)),
    ("llama", {}, {"architectures": None}, ()),
    ("qwen2", {}, {}, ("architectures",)),
    ("gemma3", {}, {"architectures": []}, ()),
    ("mpt", {}, {}, ("architectures",)),
    ("llama", {}, {"architectures": ["LLaMAForCausalLM"]}, ()),
    *[("llama", {}, {"hidden_act": name}, ()) for name in ("gelu_fast", "gelu_python", "gelu_accurate", "gelu_python_tanh")],
    ("opt", {}, {"activation_function": "gelu_fast"}, ()),
    ("qwen2", {}, {**_SLIDING, "sliding_window": None, "max_window_layers": 0}, ("layer_types",)),
    ("qwen2", {}, {**_SLIDING, "max_window_layers": 1}, ("layer_types",)),
    ("qwen2", {}, {**_SLIDING, "layer_types": _KINDS}, ()),
    ("mistral", {}, {"sliding_window": 4, "layer_types": _KINDS}, ()),
    ("mistral", {}, {"sliding_window": 4}, ()),
    ("opt", {"layer_norm_elementwise_affine": False}, {}, ()),
    ("opt", {"layer_norm_elementwise_affine": False, "do_layer_norm_before": False}, {}, ()),
    ("mpt", {}, {"attn_config": {"clip_qkv": 0.0}}, ()),
    ("llama", {}, {"model_type": "mistral", "sliding_window": None}, ()),
]  # fmt: skip


@pytest.mark.parametrize(("family", "made_with", "changes", "without"), LIKE_TRANSFORMERS)
def test_logits_are_those_of_transformers(
    family: str, made_with: dict[str, Any], changes: dict[str, Any], without: tuple[str, ...], tmp_path: Path
) -> None:
    save_tiny("model", tmp_path, {"model": lambda: tiny(family, **made_with)})
    edit(tmp_path, changes, without)
    assert (logits_of(tmp_path) - transformers_logits(tmp_path)).abs().max() <= 1e-4


@pytest.mark.parametrize("family", ["llama", "granite", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "falcon"])
def test_a_context_that_is_left_out_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    save_tiny("model", tmp_path, {"model": lambda: tiny(family)})
    edit(tmp_path, {}, ("max_position_embeddings",))
    assert read_spec(tmp_path).max_position_embeddings == AutoConfig.from_pretrained(tmp_path).max_position_embeddings


def test_null_stands_for_as_many_key_heads_as_query_heads(tmp_path: Path) -> None:
    """Where it is left out Mistral's has 8."""
    save_tiny("model", tmp_path, {"model": lambda: tiny("mistral", num_key_value_heads=6)})
    expected = logits_of(tmp_path)
    edit(tmp_path, {"num_key_value_heads": None})
    assert torch.equal(logits_of(tmp_path), expected)


_KIND_LEFT_OUT = {"rope_scaling": {"factor": 8.0, "original_max_position_embeddings": 32}}


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("llama", {"rope_theta": 0, "rope_parameters": None}, "rope_theta is 0, it should be a number above 0"),
        ("llama", {"rope_theta": -1.0, "rope_parameters": None}, "rope_theta is -1.0, it should be a number above 0"),
        ("llama", {**_KIND_LEFT_OUT, "rope_parameters": None}, "rope_scaling has a factor and no rope_type"),
        ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06, it should be a number of at least 0"),
        ("falcon", {"layer_norm_epsilon": -1e-6}, "layer_norm_epsilon is -1e-06, it should be"),
        ("gemma2", {"attn_logit_softcapping": 0}, "attn_logit_softcapping is 0, it should be a number above 0"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        ("gemma3", {"query_pre_attn_scalar": 0}, "query_pre_attn_scalar is 0, it should be a number above 0"),
        ("gemma3", {"query_pre_attn_scalar": -4}, "query_pre_attn_scalar is -4, it should be a number above 0"),
        ("gemma3", {"sliding_window": None}, "sliding_window is null, it should be a whole number of at least 1, since"),
        ("qwen2", {**_SLIDING, "sliding_window": None, "layer_types": _KINDS}, "sliding_window is null, it should be"),
        ("mpt", {"attn_config": {"softmax_scale": -1}}, "softmax_scale is -1, it should be a number above 0"),
        ("mpt", {"logit_scale": 0.5}, "MPT with logit_scale is not supported"),
        ("mpt", {"norm_type": "rmsnorm"}, "MPT with norm_type is not supported"),
        ("mpt", {"ffn_config": {"ffn_type": "mptglu"}}, "MPT with ffn_config is not supported"),
        ("mpt", {"attn_config": {"rope": True, "kv_n_heads": 2}}, "MPT with attn_config.rope and attn_config.kv_n_heads"),
        ("mpt", {"attn_config": {"sliding_window_size": 8}}, "MPT with attn_config.sliding_window_size is not"),
        ("mpt", {"attn_config": {"prefix_lm": True}}, "MPT with attn_config.prefix_lm is not supported"),
        ("llama", {"embedding_multiplier": 12.0}, "embedding_multiplier is not supported, and config.json has 12.0 for it"),
        ("mistral", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        ("qwen2", {"is_causal": False}, "is_causal is not supported"),
        ("llama", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        ("mistral", {"model_type": "llama", "sliding_window": 4}, "which is LlamaForCausalLM, and architectures names Mi"),
        ("opt", {"_remove_final_layer_norm": True}, "has not: model.decoder.final_layer_norm.bias, "),
        ("opt", {"do_layer_norm_before": False}, "has not: model.decoder.final_layer_norm.bias, "),
        ("qwen3", {"no_rope_layers": [1, 0, 1]}, "no_rope_layers is not supported"),
        ("gemma2", {"rope_local_base_freq": 1e4}, "rope_local_base_freq is not supported"),
        ("llama", {"hidden_act": "relu2"}, "hidden_act 'relu2' is not supported, only silu, "),
        ("llama", {"architectures": None, "model_type": "phi3"}, "config.json names no architecture, only LlamaForCausalLM, "),
    ],
)  # fmt: skip
def test_what_would_be_computed_wrongly_is_named(
    family: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_tiny("model", tmp_path, {"model": lambda: tiny(family)})
    edit(tmp_path, changes, ("layer_types",))
    with pytest.raises((JsonFileError, UnsupportedModelError)) as raised:
        load_decoder(tmp_path, torch.float32)
    assert message in str(raised.value)


def test_keys_of_other_models_that_ask_for_nothing_are_passed_over(tmp_path: Path) -> None:
    save_tiny("model", tmp_path, {"model": lambda: tiny("llama")})
    edit(
        tmp_path,
        {
            "embedding_multiplier": 1.0,
            "logit_scale": None,
            "clip_qkv": 0,
            "is_causal": True,
            "no_rope_layers": [1, 1, 1],
        },
    )
    assert read_spec(tmp_path).num_layers == 3


@pytest.mark.parametrize(
    ("family", "suffix", "message"),
    [
        ("qwen2", "0.self_attn.q_proj.bias", r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
        ("qwen2", "proj.bias", r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.bias'"),
        ("qwen3", "k_norm.weight", r"no tensor 'model\.layers\.0\.self_attn\.k_norm\.weight'"),
        ("opt", "1.fc1.bias", r"no tensor model\.decoder\.layers\.1\.fc1\.bias, though layer 0 has one"),
        (
            "gpt_bigcode",
            "2.attn.c_proj.bias",
            r"no tensor transformer\.h\.2\.attn\.c_proj\.bias, though layer 0 has one",
        ),
        ("llama", "lm_head.weight", r"no tensor lm_head\.weight, though .*: set tie_word_embeddings to true in it if"),
    ],
)
def test_what_can_be_left_out_in_others_is_missing_here(family: str, suffix: str, message: str, tmp_path: Path) -> None:
    """Biases and norms of heads are read where they are; without them a model would answer, and wrongly."""
    save_tiny("model", tmp_path, {"model": lambda: tiny(family)})
    without_tensors(tmp_path, lambda name: name.endswith(suffix))
    with pytest.raises(UnsupportedModelError, match=message):
        load_decoder(tmp_path, torch.float32)


def test_gemmas_embedding_is_scaled_in_the_models_type(tmp_path: Path) -> None:
    """The root of 1152 is 33.94, and 34 in bfloat16, with which the model was trained."""
    save_tiny("model", tmp_path, {"model": lambda: tiny("gemma3", hidden_size=72, num_attention_heads=6)})
    for dtype, scale in ((torch.bfloat16, 8.5), (torch.float32, 72**0.5)):
        (embed,) = (op for op in load_decoder(tmp_path, dtype).program.ops if isinstance(op, Embed))
        assert embed.scale == pytest.approx(scale, abs=1e-6)
