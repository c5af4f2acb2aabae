"""How checkpoints store quantised weights: our own format, GPTQ, AWQ and scaled codes of 8 bits in safetensors, and GGUF files.

Each format is one module that turns what is on disk into ``QuantizedWeight`` without a change of value. ``format_of`` chooses by
``config.json`` and by the tensors themselves; ``specgrove.models.weights.safetensors_checkpoint`` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.formats import own
from specgrove.models.weights.formats.awq import AwqFormat
from specgrove.models.weights.formats.foreign import REMEDY, foreign_format
from specgrove.models.weights.formats.gptq import GptqFormat
from specgrove.models.weights.formats.own import OwnFormat
from specgrove.models.weights.formats.scaled import METHODS as SCALED_METHODS
from specgrove.models.weights.formats.scaled import ScaledFormat
from specgrove.models.weights.formats.stored import StoredTensors, WeightFormat

_PART_OF = {own.QUANT_METHOD: ".codes", "gptq": ".qweight", "awq": ".qweight"}
_PLAIN = (".weight", ".bias", ".inv_freq")
SUPPORTED_METHODS = (own.QUANT_METHOD, "gptq", "awq")


def format_of(config: Mapping[str, Any] | None, stored: StoredTensors) -> WeightFormat | None:
    """``config`` is ``quantization_config``. None where weights are plain tensors. Raises ``UnsupportedModelError``."""
    config = config or {}
    method = str(config.get("quant_method") or "").lower()
    names = stored.names()
    if config.get("transform_config"):
        raise UnsupportedModelError(
            f"quantization_config has a transform_config (rotations before and after linears), which is not supported: {REMEDY}"
        )
    chosen = _named_format(method, config, stored)
    if method in _PART_OF and not any(name.endswith(_PART_OF[method]) for name in names):
        raise UnsupportedModelError(
            f"config.json (or quantize_config.json) says that the weights are quantised by {method}, but no tensor is stored so: remove "
            "what it says if they are not, else the files are another model's"
        )
    if chosen is not None:
        return chosen
    if (foreign := foreign_format(names, stored)) is not None:
        raise UnsupportedModelError(f"the weights are stored in {foreign}, which is not supported: {REMEDY}")
    if method and any(name.endswith(".qweight") for name in names):
        raise UnsupportedModelError(
            f"the weights are packed as by GPTQ or AWQ, but config.json names the quant_method {method}, which is not supported: if the "
            "tensors are GPTQ's or AWQ's own, set it to gptq or awq"
        )
    if any(name.endswith(".qweight") for name in names):
        raise UnsupportedModelError(
            "the weights are stored by GPTQ or AWQ, but config.json doesn't say how: it should have a quantization_config with "
            "quant_method, bits and group_size"
        )
    if method in SCALED_METHODS and ScaledFormat.is_in(names):
        return ScaledFormat(config, stored)
    if not config:
        return None
    if (codes := ScaledFormat.codes_in(stored)) is not None:
        raise UnsupportedModelError(
            f"config.json says that the weights are quantised by {method or 'an unnamed method'} and {codes} holds codes of 8 bits, but no "
            "scale is beside it (weight_scale): part of the checkpoint is missing, fetch it again"
        )
    if all(name.endswith(_PLAIN) for name in names):
        raise UnsupportedModelError(
            f"config.json says that the weights are quantised by {method or 'an unnamed method'}, but they are plain numbers: remove "
            "quantization_config from config.json to serve them as they are"
        )
    raise UnsupportedModelError(
        f"quantised by {method or 'an unnamed method'}, which is not supported: only {', '.join(SUPPORTED_METHODS)} and scaled 8 "
        f"bits are; {REMEDY}"
    )


def _named_format(method: str, config: Mapping[str, Any], stored: StoredTensors) -> WeightFormat | None:
    if method == own.QUANT_METHOD:
        return OwnFormat(stored)
    if method == "gptq":
        return GptqFormat(config, stored)
    return AwqFormat(config, stored) if method == "awq" else None
