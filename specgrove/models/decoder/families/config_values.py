"""Values that several families read from ``config.json`` in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from specgrove.files.json_files import JsonObject
from specgrove.kernels.activations import Activation
from specgrove.models.errors import UnsupportedModelError

_ACTIVATIONS: Mapping[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    # One formula under several names.
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}

_DEFAULT_WINDOW = 4096  # of all families that have windows
LAYER_KINDS = ("full_attention", "sliding_attention")


def activation_of(config: JsonObject, key: str, default: str) -> Activation:
    """From transformers' name. Raises ``UnsupportedModelError``."""
    name = config.text(key, default)
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(f"{key} {name!r} is not supported, only {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def norm_eps_of(config: JsonObject, key: str, default: float) -> float:
    """What norms add to a variance, which must not make it negative. Raises ``JsonFileError``."""
    value = config.number(key, default)
    if value < 0:
        raise config.error(key, "a number of at least 0")
    return value


def head_dim_of(config: JsonObject, hidden_size: int, num_heads: int) -> int:
    """For models whose heads make up the hidden size. Raises ``JsonFileError`` where they can't."""
    if hidden_size % num_heads:
        raise config.error("hidden_size", f"a multiple of the {num_heads} heads")
    return hidden_size // num_heads


def layer_kinds(config: JsonObject, num_layers: int) -> tuple[str, ...]:
    """``layer_types``, one for each layer; empty where they are left out. Raises ``JsonFileError``."""
    kinds = config.texts("layer_types")
    if kinds and (len(kinds) != num_layers or not set(kinds) <= set(LAYER_KINDS)):
        raise config.error("layer_types", f"a list of {num_layers} texts, each {' or '.join(LAYER_KINDS)}")
    return kinds


def window_of(config: JsonObject, kinds: Sequence[str]) -> int | None:
    """``sliding_window``: null says that there is none, a key that is left out doesn't. Raises ``JsonFileError``."""
    if "sliding_window" not in config or config.has("sliding_window"):
        return config.size("sliding_window", _DEFAULT_WINDOW)
    if "sliding_attention" in kinds:
        raise config.error("sliding_window", "a whole number of at least 1, since layer_types has sliding_attention")
    return None
