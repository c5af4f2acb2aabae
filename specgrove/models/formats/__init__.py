"""How checkpoints store quantised weights: our own format, GPTQ and AWQ in safetensors, and GGUF files.

Each format is one module that turns what is on disk into ``QuantizedWeight`` without a change of value. ``format_of`` chooses by
``config.json``; ``specgrove.models.safetensors_checkpoint`` calls it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats import own
from specgrove.models.formats.awq import AwqFormat
from specgrove.models.formats.gptq import GptqFormat
from specgrove.models.formats.own import OwnFormat
from specgrove.models.formats.stored import StoredTensors, WeightFormat

SUPPORTED_METHODS = (own.QUANT_METHOD, "gptq", "awq")


def format_of(config: Mapping[str, Any] | None, stored: StoredTensors) -> WeightFormat | None:
    """From ``quantization_config``; None where weights are plain tensors. Raises ``UnsupportedModelError``."""
    if not config:
        return None
    method = str(config.get("quant_method", "")).lower()
    if method == own.QUANT_METHOD:
        return OwnFormat(stored)
    if method == "gptq":
        return GptqFormat(config, stored)
    if method == "awq":
        return AwqFormat(config, stored)
    raise UnsupportedModelError(
        f"quantised by {method or 'an unnamed method'}, which is not supported: only {', '.join(SUPPORTED_METHODS)} are"
    )
