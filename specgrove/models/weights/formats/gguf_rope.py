"""Rotary positions of a GGUF file as ``config.json`` has them. Called by ``specgrove.models.weights.formats.gguf_config``.

Invariant: every key of ``<architecture>.rope`` is read or refused, since positions that are a little off give fluent nonsense.
Defaults are llama.cpp's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specgrove.models.decoder.rotary import frequencies_of
from specgrove.models.decoder.rotary_spec import Llama3Scaling, RotarySpec, yarn_mscale
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.gguf_metadata import GgufMetadata

# What llama.cpp's converter turns into a tensor of divisors; all of Meta's models have these values.
_LLAMA3_ORIGINAL_POSITIONS, _LLAMA3_LOW, _LLAMA3_HIGH = 8192, 1.0, 4.0
_KNOWN = (
    "dimension_count", "dimension_count_swa", "freq_base", "freq_base_swa", "global.freq_base", "local.freq_base", "scale_linear",
    "scaling.type", "scaling.factor",
    "scaling.attn_factor", "scaling.original_context_length", "scaling.finetuned", "scaling.yarn_ext_factor",
    "scaling.yarn_attn_factor", "scaling.yarn_beta_fast", "scaling.yarn_beta_slow",
)  # fmt: skip


def shortest(number: float) -> float:
    """GGUF holds the float32 neighbour of what the model's makers wrote."""
    return float(str(np.float32(number)))


def gguf_rope(file: GgufFile, head_dim: int, values: GgufMetadata) -> dict[str, Any]:
    """``rope_parameters``. Raises ``UnsupportedModelError``."""
    rope = values.below("rope")
    if unknown := [key for key in rope if key not in _KNOWN]:
        raise UnsupportedModelError(f"{file.path}: rotary positions with {unknown[0]} are not supported")
    theta = shortest(rope.positive("freq_base", rope.positive("global.freq_base", 10000.0)))
    if (divisors := file.tensors.get("rope_freqs.weight")) is not None:
        return _llama3(divisors.data.view(np.float32).ravel(), theta, head_dim, file)
    # A factor needs no type, and had another name once.
    factor = shortest(rope.number("scaling.factor", rope.number("scale_linear", 0.0)))
    kind = rope.text("scaling.type", "linear")
    if kind not in ("none", "linear", "yarn"):
        raise UnsupportedModelError(f"{file.path}: rope scaling {kind!r} is not supported, only linear and yarn")
    on_logits = rope.positive("scaling.attn_factor", 1.0) * rope.positive("scaling.yarn_attn_factor", 1.0)
    if kind == "yarn":
        return {"rope_type": "yarn", "rope_theta": theta, **_yarn(factor or 1.0, on_logits, values, rope)}
    if on_logits != 1.0:
        raise rope.error("scaling.attn_factor", "1 where the scaling is not yarn, others are not supported")
    if kind == "none" or factor in (0.0, 1.0):
        return {"rope_type": "default", "rope_theta": theta}
    return {"rope_type": kind, "rope_theta": theta, "factor": _checked(factor, rope)}


def _yarn(factor: float, on_logits: float, values: GgufMetadata, rope: GgufMetadata) -> dict[str, Any]:
    if rope.number("scaling.yarn_ext_factor", 1.0) not in (1.0, -1.0):  # -1 stands for what the type says
        raise rope.error("scaling.yarn_ext_factor", "1, others are not supported")
    betas = {
        name: shortest(rope.positive(f"scaling.yarn_{name}"))
        for name in ("beta_fast", "beta_slow")
        if f"scaling.yarn_{name}" in rope
    }
    own = {} if on_logits == 1.0 else {"attention_factor": on_logits * yarn_mscale(factor, 1.0)}
    original = rope.size("scaling.original_context_length", values.size("context_length"))
    return {"factor": _checked(factor, rope), "original_max_position_embeddings": original, **betas, **own}


def _checked(factor: float, rope: GgufMetadata) -> float:
    if factor < 1:
        raise rope.error("scaling.factor" if "scaling.factor" in rope else "scale_linear", "a number of at least 1")
    return factor


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
