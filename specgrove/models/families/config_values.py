"""Values that several families read from ``config.json`` in the same way."""

from __future__ import annotations

from collections.abc import Mapping

from specgrove.json_files import JsonObject
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

_LAYER_KINDS = ("full_attention", "sliding_attention")


def activation_of(config: JsonObject, key: str, default: str) -> Activation:
    """From transformers' name. Raises ``UnsupportedModelError``."""
    name = config.text(key, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"{key} {name!r} is not supported, only {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def head_dim_of(config: JsonObject, hidden_size: int, num_heads: int) -> int:
    """Of models whose heads make up the hidden size. Raises ``JsonFileError`` where they can't."""
    if hidden_size % num_heads:
        raise config.error("hidden_size", f"a multiple of the {num_heads} heads")
    return hidden_size // num_heads


def layer_kinds(config: JsonObject, num_layers: int) -> tuple[str, ...]:
    """``layer_types``, one for each layer; empty where they are left out. Raises ``JsonFileError``."""
    kinds = config.texts("layer_types")
    if kinds and (len(kinds) != num_layers or not set(kinds) <= set(_LAYER_KINDS)):
        raise config.error("layer_types", f"a list of {num_layers} texts, each {' or '.join(_LAYER_KINDS)}")
    return kinds
