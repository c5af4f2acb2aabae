"""A GGUF file's metadata as ``config.json``. Called by ``specgrove.models.gguf_model``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats.gguf_blocks import BITS, BLOCK_LEN, PLAIN_TYPES
from specgrove.models.formats.gguf_families import GgufFamily, family_of_gguf, main_type, reader_of
from specgrove.models.gguf_file import GgufFile
from specgrove.models.gguf_tokenizer import special_ids
from specgrove.models.rotary import Llama3Scaling, RotarySpec, frequencies_of

# What llama.cpp's converter turns into a tensor of divisors; all of Meta's models have these values.
_LLAMA3_ORIGINAL_POSITIONS, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0
# What llama.cpp has in its code for Gemma 3, for files that don't say it.
_GEMMA3_LOCAL_THETA, _GEMMA3_PATTERN, _GEMMA3_27B_LAYERS = 10000.0, 6, 62

Value = Callable[..., Any]


def config_of_gguf(file: GgufFile) -> dict[str, Any]:
    """``config.json``. Raises ``UnsupportedModelError`` that names what is missing or not supported."""
    family, value = family_of_gguf(file), reader_of(file)
    if value("expert_count", 0):
        raise UnsupportedModelError(f"{file.path}: mixtures of experts are not supported")
    if "token_embd.weight" not in file.tensors:
        raise UnsupportedModelError(f"{file.path} has no token_embd.weight: is it a whole model?")
    hidden_size, num_heads = int(value("embedding_length")), int(value("attention.head_count"))
    num_kv_heads = int(value("attention.head_count_kv", num_heads))
    if num_heads < 1 or num_kv_heads < 1:
        raise UnsupportedModelError(
            f"{file.path}: {num_heads} heads with {num_kv_heads} of keys and values are not supported: at least one of each"
        )
    head_dim = int(value("attention.key_length", hidden_size // num_heads))
    if {int(value("rope.dimension_count", head_dim)), int(value("attention.value_length", head_dim))} != {head_dim}:
        raise UnsupportedModelError(
            f"{file.path}: rotary embeddings of a part of the head, or values of another size than keys, are not supported"
        )
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": file.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden_size,
        "intermediate_size": int(value("feed_forward_length")),
        "num_hidden_layers": int(value("block_count")),
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": int(value("context_length")),
        "rms_norm_eps": _shortest(value("attention.layer_norm_rms_epsilon")),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **special_ids(file),
        **_of_family(file, family, value, hidden_size, num_heads, head_dim),
    }
    if (quantization := quantization_config_of_gguf(file)) is not None:
        config["quantization_config"] = quantization
    return config


def quantization_config_of_gguf(file: GgufFile) -> dict[str, Any] | None:
    """The most common type of the weights and their number, with bits where kernels take them so; None for plain weights."""
    if (kind := main_type(file)) in PLAIN_TYPES:
        return None
    sizes = [math.prod(tensor.shape) for tensor in file.tensors.values() if len(tensor.shape) > 1]
    if "output.weight" not in file.tensors:  # the embedding is a table and the head's weight
        sizes.append(math.prod(file.tensors["token_embd.weight"].shape))
    kept = {"bits": BITS[kind], "group_size": BLOCK_LEN} if kind in BITS else {}
    return {"quant_method": "gguf", "type": kind, "num_weights": sum(sizes), **kept}


def _shortest(number: float) -> float:
    """GGUF holds the float32 neighbour of what the model's makers wrote."""
    return float(str(np.float32(number)))


def _of_family(
    file: GgufFile, family: GgufFamily, value: Value, hidden_size: int, num_heads: int, head_dim: int
) -> dict[str, Any]:
    """What only this architecture's ``config.json`` has."""
    rope = _rope(file, head_dim, value)
    if family.name != "gemma3":
        biases = {
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        }
        return {"hidden_act": "silu", "rope_parameters": rope, **(biases if family.name != "qwen2" else {})}
    num_layers, pattern = int(value("block_count")), int(value("attention.sliding_window_pattern", _GEMMA3_PATTERN))
    if value("final_logit_softcapping", 0) or value("attn_logit_softcapping", 0):
        raise UnsupportedModelError(f"{file.path}: softcapping is not supported")
    local_theta = _shortest(value("rope.freq_base_swa", _GEMMA3_LOCAL_THETA))
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": hidden_size // num_heads if num_layers == _GEMMA3_27B_LAYERS else head_dim,
        "sliding_window": int(value("attention.sliding_window")),
        "layer_types": ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(num_layers)],
        "rope_parameters": {
            "full_attention": rope,
            "sliding_attention": {"rope_type": "default", "rope_theta": local_theta},
        },
    }


def _rope(file: GgufFile, head_dim: int, value: Value) -> dict[str, Any]:
    theta = _shortest(value("rope.freq_base", 10000.0))
    if (divisors := file.tensors.get("rope_freqs.weight")) is not None:
        return _llama3(divisors.data.view(np.float32).ravel(), theta, head_dim, file)
    kind = value("rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("linear", "yarn"):
        raise UnsupportedModelError(f"{file.path}: rope scaling {kind!r} is not supported, only linear and yarn")
    rope = {"rope_type": kind, "rope_theta": theta, "factor": _shortest(value("rope.scaling.factor"))}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = int(value("rope.scaling.original_context_length"))
    return rope


def _llama3(divisors: np.ndarray[Any, Any], theta: float, head_dim: int, file: GgufFile) -> dict[str, Any]:
    """The scaling whose divisors these are."""
    factor = float(divisors.max())
    scaling = Llama3Scaling(factor, _LLAMA3_LOW, _LLAMA3_HIGH, _LLAMA3_ORIGINAL_POSITIONS)
    expected = frequencies_of(RotarySpec(theta), head_dim) / frequencies_of(RotarySpec(theta, scaling), head_dim)
    if divisors.shape != expected.shape or not np.allclose(divisors, expected.numpy(), rtol=1e-3):
        raise UnsupportedModelError(
            f"{file.path}: rope_freqs.weight is not Llama 3's scaling, which is the only one supported"
        )
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": _LLAMA3_LOW,
        "high_freq_factor": _LLAMA3_HIGH,
        "original_max_position_embeddings": _LLAMA3_ORIGINAL_POSITIONS,
    }
