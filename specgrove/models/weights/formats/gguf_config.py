"""A GGUF file's metadata as ``config.json``. Called by ``specgrove.models.folders.gguf_model``."""

from __future__ import annotations

import math
from typing import Any

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.gguf_tokenizer import special_ids
from specgrove.models.weights.formats.gguf_blocks import BITS, BLOCK_LEN, PLAIN_TYPES
from specgrove.models.weights.formats.gguf_families import GgufFamily, family_of_gguf, main_type, values_of
from specgrove.models.weights.formats.gguf_rope import gguf_rope, shortest
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.gguf_metadata import GgufMetadata

# What llama.cpp has in its code for Gemma, for files that don't say it.
_GEMMA3_LOCAL_THETA = 10000.0
_GEMMA_PATTERNS = {"gemma2": 2, "gemma3": 6}
_GEMMA_27B_LAYERS = {"gemma2": 46, "gemma3": 62}
_GEMMA2_WINDOW, _GEMMA2_ATTENTION_CAP, _GEMMA2_LOGIT_CAP = 4096, 50.0, 30.0
_WITH_ATTENTION_SCALE = ("gemma2", "gemma3", "granite")
# What other architectures compute, with the values that change nothing.
_UNREAD = {
    "logit_scale": (0, 1), "embedding_scale": (0, 1), "residual_scale": (0, 1), "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,), "use_parallel_residual": (0,), "swin_norm": (0,), "attention.causal": (1,),
    "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,), "attention.temperature_scale": (0, 1),
    "attention.temperature_length": (0,), "attention.output_scale": (0, 1), "attention.value_scale": (0, 1),
    "attention.shared_kv_layers": (0,),
}  # fmt: skip
_READ_BY = {
    "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
    "granite": ("logit_scale", "embedding_scale", "residual_scale"),
}
_READ_OF_ATTENTION = (
    "head_count", "head_count_kv", "key_length", "value_length", "layer_norm_rms_epsilon", "layer_norm_epsilon",
    "sliding_window", "sliding_window_pattern", "scale", "key_length_swa", "value_length_swa",
)  # fmt: skip


def config_of_gguf(file: GgufFile) -> dict[str, Any]:
    """``config.json``. Raises ``UnsupportedModelError`` that names what is missing or not supported."""
    family, values = family_of_gguf(file), values_of(file)
    if values.integer("expert_count", 0):
        raise UnsupportedModelError(f"{file.path}: mixtures of experts are not supported")
    if "token_embd.weight" not in file.tensors:
        raise UnsupportedModelError(f"{file.path} has no token_embd.weight: is it a whole model?")
    hidden_size, num_heads = values.size("embedding_length"), values.size("attention.head_count")
    num_kv_heads = values.size("attention.head_count_kv", num_heads)
    head_dim = values.size("attention.key_length", max(hidden_size // num_heads, 1))
    others = (values.size(name, head_dim) for name in ("rope.dimension_count", "attention.value_length"))
    if set(others) != {head_dim}:
        raise UnsupportedModelError(
            f"{file.path}: rotary embeddings of a part of the head, or values of another size than keys, are not supported"
        )
    _check_read(file, family, values, head_dim)
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": values.size("feed_forward_length"),
        "num_hidden_layers": values.size("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": _num_positions(family, values),
        "rms_norm_eps": shortest(values.positive("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **special_ids(file),
        **_of_family(file, family, values, hidden_size, num_heads, head_dim),
    }
    if (quantization := quantization_config_of_gguf(file)) is not None:
        config["quantization_config"] = quantization
    return config


def _check_read(file: GgufFile, family: GgufFamily, values: GgufMetadata, head_dim: int) -> None:
    """Raises ``UnsupportedModelError`` for what would be left out, though it changes what the model computes."""
    for key, neutral in _UNREAD.items():
        is_read = key in _READ_BY.get(family.name, ())
        if key in values and not is_read and values.scalar(key) not in neutral:
            raise UnsupportedModelError(f"{file.path}: {family.name}.{key} of {values.scalar(key):g} is not supported")
    known = (*_READ_OF_ATTENTION, *(key.removeprefix("attention.") for key in _UNREAD))
    if unknown := [key for key in values.below("attention") if key not in known]:
        raise UnsupportedModelError(
            f"{file.path}: {family.name}.attention.{unknown[0]} is not known, and may not be left out"
        )
    for key in ("attention.key_length_swa", "attention.value_length_swa", "rope.dimension_count_swa"):
        if values.size(key, head_dim) != head_dim:
            raise UnsupportedModelError(
                f"{file.path}: heads of another size in sliding layers ({key}) are not supported"
            )
    scale = values.number("attention.scale", 0.0)
    if family.name not in _WITH_ATTENTION_SCALE and scale and not math.isclose(scale, head_dim**-0.5, rel_tol=1e-3):
        raise UnsupportedModelError(f"{file.path}: {family.name}.attention.scale of {scale:g} is not supported")


def _num_positions(family: GgufFamily, values: GgufMetadata) -> int:
    """Of models that llama.cpp gives no windows: where the file tells of one, all that a window shows is what is served."""
    context_len = values.size("context_length")
    window = values.integer("attention.sliding_window", 0)
    return context_len if family.name in _GEMMA_PATTERNS or window < 1 else min(context_len, window)


def quantization_config_of_gguf(file: GgufFile) -> dict[str, Any] | None:
    """The most common type of the weights and their number, with bits where kernels take them so; None for plain weights."""
    if (kind := main_type(file)) in PLAIN_TYPES:
        return None
    sizes = [math.prod(tensor.shape) for tensor in file.tensors.values() if len(tensor.shape) > 1]
    if "output.weight" not in file.tensors:  # the embedding is a table and the head's weight
        sizes.append(math.prod(file.tensors["token_embd.weight"].shape))
    kept = {"bits": BITS[kind], "group_size": BLOCK_LEN} if kind in BITS else {}
    return {"quant_method": "gguf", "type": kind, "num_weights": sum(sizes), **kept}


def _of_family(
    file: GgufFile, family: GgufFamily, values: GgufMetadata, hidden_size: int, num_heads: int, head_dim: int
) -> dict[str, Any]:
    """What only this architecture's ``config.json`` has."""
    rope = gguf_rope(file, head_dim, values)
    if family.name not in _GEMMA_PATTERNS:
        biases = {
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        }
        factors = _granite_factors(file, values, head_dim) if family.name == "granite" else {}
        return {"hidden_act": "silu", "rope_parameters": rope, **(biases if family.name != "qwen2" else {}), **factors}
    num_layers = values.size("block_count")
    scale = values.number("attention.scale", 0.0)
    usual = hidden_size // num_heads if num_layers == _GEMMA_27B_LAYERS[family.name] else head_dim
    sliding = _sliding(values, num_layers, _GEMMA_PATTERNS[family.name])
    shared = {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scale**-2 if scale else usual,
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding],
    }
    if family.name == "gemma2":
        return {
            **shared,
            "sliding_window": values.size("attention.sliding_window", _GEMMA2_WINDOW),
            "attn_logit_softcapping": shortest(values.positive("attn_logit_softcapping", _GEMMA2_ATTENTION_CAP)),
            "final_logit_softcapping": shortest(values.positive("final_logit_softcapping", _GEMMA2_LOGIT_CAP)),
            "rope_parameters": rope,
        }
    # The second name is that of files made by Ollama.
    local_theta = values.positive("rope.freq_base_swa", values.positive("rope.local.freq_base", _GEMMA3_LOCAL_THETA))
    return {
        **shared,
        "sliding_window": values.size("attention.sliding_window"),
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": shortest(local_theta)},
        },
    }


def _granite_factors(file: GgufFile, values: GgufMetadata, head_dim: int) -> dict[str, float]:
    """A scale of 0 is none, as in llama.cpp; its ``logit_scale`` divides."""
    if not values.flag("rope.scaling.finetuned", default=True):  # so files say that there are no positions at all
        raise UnsupportedModelError(f"{file.path}: granite.rope.scaling.finetuned of false is not supported")
    return {
        "attention_multiplier": shortest(values.number("attention.scale", 0.0)) or head_dim**-0.5,
        "embedding_multiplier": shortest(values.number("embedding_scale", 0.0)) or 1.0,
        "residual_multiplier": shortest(values.number("residual_scale", 0.0)) or 1.0,
        "logits_scaling": shortest(values.positive("logit_scale", 1.0)),
    }


def _sliding(values: GgufMetadata, num_layers: int, usual: int) -> list[bool]:
    """By layer whether it sees a window only: told by layer, or one in so many sees all."""
    key = "attention.sliding_window_pattern"
    if values.is_list(key):
        flags = values.flags(key)
        if len(flags) != num_layers:
            raise values.error(key, f"a list of {num_layers}, one for each layer")
        return flags
    pattern = values.size(key, usual)
    return [(layer + 1) % pattern != 0 for layer in range(num_layers)]
