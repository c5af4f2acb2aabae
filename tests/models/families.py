"""Tiny random models of every family and variant, saved by transformers. Sizes are uneven on purpose."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from specgrove.models.weights.quantization import quantize_folder
from specgrove.program.decoder import Decoder
from specgrove.program.loading import load_decoder

VOCAB_SIZE = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _llama(**overrides: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**(SIZES | overrides)))


def _mistral(**overrides: Any) -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**(SIZES | overrides)))


def _qwen2(**overrides: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**(SIZES | overrides)))


def _qwen3(**overrides: Any) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**(SIZES | overrides)))


def _opt(**overrides: Any) -> Any:
    from transformers import OPTConfig, OPTForCausalLM

    sizes = {
        "vocab_size": VOCAB_SIZE, "hidden_size": 48, "ffn_dim": 80, "num_hidden_layers": 3, "num_attention_heads": 6,
        "max_position_embeddings": 64, "word_embed_proj_dim": 48, "init_std": 0.2, "dropout": 0.0,
    }  # fmt: skip
    return OPTForCausalLM(OPTConfig(**(sizes | overrides)))


def _falcon(**overrides: Any) -> Any:
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {
        "vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return FalconForCausalLM(FalconConfig(**(sizes | overrides)))


def _gpt_bigcode(**overrides: Any) -> Any:
    from transformers import GPTBigCodeConfig, GPTBigCodeForCausalLM

    sizes = {
        "vocab_size": VOCAB_SIZE, "n_embd": 48, "n_inner": 80, "n_layer": 3, "n_head": 6, "n_positions": 64,
        "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    return GPTBigCodeForCausalLM(GPTBigCodeConfig(**(sizes | overrides)))


def _mpt(attention: dict[str, Any] | None = None, **overrides: Any) -> Any:
    from transformers import MptConfig, MptForCausalLM

    sizes = {
        "vocab_size": VOCAB_SIZE, "d_model": 48, "n_layers": 3, "n_heads": 6, "max_seq_len": 64,
        "initializer_range": 0.2, "attn_config": {"alibi": True} | (attention or {}),
    }  # fmt: skip
    return MptForCausalLM(MptConfig(**(sizes | overrides)))


def _gemma2(**overrides: Any) -> Any:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    # Small caps, so that nothing is right without them.
    caps = {"attn_logit_softcapping": 0.7, "final_logit_softcapping": 2.0}
    config = Gemma2Config(**(SIZES | {"tie_word_embeddings": True} | caps | overrides))
    config._attn_implementation = "eager"  # others leave the caps out
    return Gemma2ForCausalLM(config)


def _gemma3(**overrides: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    return Gemma3ForCausalLM(Gemma3TextConfig(**(SIZES | {"tie_word_embeddings": True} | overrides)))


def _granite(**overrides: Any) -> Any:
    from transformers import GraniteConfig, GraniteForCausalLM

    factors = {"embedding_multiplier": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.3}
    return GraniteForCausalLM(GraniteConfig(**(SIZES | factors | {"logits_scaling": 2.0} | overrides)))


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


VARIANTS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "llama-tied-biases": lambda: _llama(tie_word_embeddings=True, attention_bias=True, mlp_bias=True),
    "llama-rope-linear": lambda: _llama(**_rope("linear", factor=4.0)),
    "llama-rope-dynamic": lambda: _llama(**_rope("dynamic", factor=4.0)),
    "llama-rope-llama3": lambda: _llama(
        **_rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
    ),
    "llama-rope-yarn": lambda: _llama(**_rope("yarn", factor=4.0, original_max_position_embeddings=16)),
    "mistral": lambda: _mistral(sliding_window=None),
    "mistral-window": lambda: _mistral(sliding_window=5),
    "qwen2": lambda: _qwen2(use_sliding_window=False),
    "qwen2-window": lambda: _qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "qwen3": _qwen3,
    "opt": _opt,
    "opt-350m": lambda: _opt(do_layer_norm_before=False, word_embed_proj_dim=24),
    "opt-no-bias": lambda: _opt(enable_bias=False, tie_word_embeddings=False),
    "falcon-7b": lambda: _falcon(multi_query=True, parallel_attn=True, bias=False, new_decoder_architecture=False),
    "falcon-40b": lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2, bias=False),
    "falcon-11b": lambda: _falcon(new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1, bias=False),
    "falcon-rw": lambda: _falcon(multi_query=False, parallel_attn=False, alibi=True, bias=True),
    "falcon-rotary-biases": lambda: _falcon(multi_query=True, parallel_attn=False, bias=True),
    "gpt-bigcode": _gpt_bigcode,
    "gpt-bigcode-multi-head": lambda: _gpt_bigcode(multi_query=False),
    "mpt": _mpt,
    "mpt-clip": lambda: _mpt({"clip_qkv": 0.5, "softmax_scale": 0.2}),
    "gemma2": lambda: _gemma2(sliding_window=4, query_pre_attn_scalar=8),
    "gemma2-no-caps": lambda: _gemma2(attn_logit_softcapping=None, final_logit_softcapping=None),
    "gemma3": lambda: _gemma3(
        sliding_window=4, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "granite": _granite,
    "granite-biases": lambda: _granite(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, logits_scaling=0.7
    ),
    "gemma3-one-kv-head": lambda: _gemma3(num_key_value_heads=1, query_pre_attn_scalar=16),
}


_WIDE: dict[str, Any] = {"hidden_size": 96, "head_dim": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
_WIDE |= {"num_hidden_layers": 2}
DEVICE_VARIANTS: dict[str, Callable[[], Any]] = {
    "llama": lambda: _llama(**_WIDE),
    "llama-96-biases": lambda: _llama(**(_WIDE | {"head_dim": 96}), attention_bias=True, mlp_bias=True),
    "llama-80-odd": lambda: _llama(**(_WIDE | {"head_dim": 80, "intermediate_size": 77, "num_key_value_heads": 1})),
    "mistral-window": lambda: _mistral(**(_WIDE | {"head_dim": 128}), sliding_window=5),
    "qwen3": lambda: _qwen3(**_WIDE),
    "opt": lambda: _opt(hidden_size=128, num_attention_heads=2, word_embed_proj_dim=128),
    "opt-350m": lambda: _opt(
        hidden_size=128, num_attention_heads=2, do_layer_norm_before=False, word_embed_proj_dim=24
    ),
    "falcon-7b": lambda: _falcon(
        hidden_size=256, multi_query=True, parallel_attn=True, bias=False, new_decoder_architecture=False
    ),
    "falcon-40b": lambda: _falcon(hidden_size=256, new_decoder_architecture=True, num_kv_heads=2, bias=False),
    "gpt-bigcode": lambda: _gpt_bigcode(n_embd=128, n_head=2),
    "mpt-clip": lambda: _mpt({"clip_qkv": 0.5, "softmax_scale": 0.2}, d_model=128, n_heads=2),
    "granite": lambda: _granite(**_WIDE),
    "gemma2": lambda: _gemma2(**(_WIDE | {"head_dim": 128}), sliding_window=4, query_pre_attn_scalar=16),
    "gemma3": lambda: _gemma3(
        **(_WIDE | {"head_dim": 256}), sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
}
"""With heads of the sizes that the kernels for GPUs take."""


def save_tiny(variant: str, folder: Path, variants: dict[str, Callable[[], Any]] = VARIANTS) -> Any:
    """Saves the variant, and returns transformers' model. Biases and norms are random too, so that none can be forgotten."""
    if variants is not VARIANTS and variants is not DEVICE_VARIANTS:
        return _make_tiny(variant, variants[variant], folder)
    model, files, random_state = _kept_tiny(variant, variants[variant])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    torch.set_rng_state(random_state)
    return copy.deepcopy(model)


def load_tiny(variant: str, kind: str, folder: Path) -> Decoder:
    """A variant of its own folder below ``folder``, in ``kind``: a dtype, or "int8" weights that compute in bfloat16."""
    model = folder / "model"
    save_tiny(variant, model)
    if kind == "int8":
        quantize_folder(model, folder / "quantized", 8)
        model = folder / "quantized"
    return load_decoder(model, torch.float32 if kind == "float32" else torch.bfloat16)


def _make_tiny(variant: str, make: Callable[[], Any], folder: Path) -> Any:
    torch.manual_seed(sum(map(ord, variant)))
    model = make().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * (0.3 if "norm" in name or "ln" in name else 0.1))
    model.save_pretrained(folder)
    return model


@functools.cache
def _kept_tiny(variant: str, make: Callable[[], Any]) -> tuple[Any, dict[str, bytes], torch.Tensor]:
    """The model, its files, and what the random generator is afterwards. Many tests want the same."""
    with tempfile.TemporaryDirectory() as folder:
        model = _make_tiny(variant, make, Path(folder))
        return model, {path.name: path.read_bytes() for path in Path(folder).iterdir()}, torch.get_rng_state()


_FAMILIES: dict[str, Callable[..., Any]] = {
    "llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3, "opt": _opt, "falcon": _falcon,
    "gpt_bigcode": _gpt_bigcode, "mpt": _mpt, "gemma2": _gemma2, "gemma3": _gemma3, "granite": _granite,
}  # fmt: skip


def tiny(family: str, **overrides: Any) -> Any:
    """A family's model with other settings than the variants have."""
    return _FAMILIES[family](**overrides)
