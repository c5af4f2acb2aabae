"""Values that several families read from ``config.json`` in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.kernels.elementwise import Activation
from specgrove.models.errors import UnsupportedModelError

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def activation_of(name: str) -> Activation:
    """From transformers' name. Raises ``UnsupportedModelError``."""
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"activation {name!r} is not supported, only {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def eos_of(config: Mapping[str, Any]) -> tuple[int, ...]:
    """End-of-sequence ids: none, one, or a list of them."""
    eos = config.get("eos_token_id")
    return () if eos is None else tuple(eos) if isinstance(eos, list) else (int(eos),)
