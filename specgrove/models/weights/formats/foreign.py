"""Ways to store quantised weights that SpecGrove doesn't read, told by their tensors, so that a refusal names the format and the remedy.

Called by ``specgrove.models.weights.formats``: configurations often say nothing, or not the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from specgrove.models.weights.formats.stored import StoredTensors

REMEDY = (
    "take a checkpoint of the same model in 16 bits, by GPTQ, by AWQ or as a GGUF file; `specgrove quantize` makes 8 or 4 bits of "
    "one in 16"
)
_Test = Callable[[str, StoredTensors], bool]


def _has(*suffixes: str) -> _Test:
    return lambda name, stored: name.endswith(suffixes)


def _is_mlx(name: str, stored: StoredTensors) -> bool:
    stem = name.removesuffix(".biases")
    return stem != name and stored.stores(stem + ".scales") and stored.stores(stem + ".weight")


def _is_nvfp4(name: str, stored: StoredTensors) -> bool:
    return name.endswith((".weight_scale_2", ".weight_global_scale"))


_FORMATS: tuple[tuple[str, _Test], ...] = (
    ("NVFP4 (4-bit floats of ModelOpt or compressed-tensors)", _is_nvfp4),
    ("MLX's quantisation", _is_mlx),
    ("bitsandbytes' 4 bits", _has(".absmax", ".quant_map", ".nested_absmax")),
    ("bitsandbytes' 8 bits", _has(".SCB")),
    ("compressed-tensors' packed integers", _has(".weight_packed")),
    ("HQQ", _has(".W_q")),
    ("AQLM", _has(".codebooks")),
    ("QuIP#", _has(".Qidxs")),
    ("EXL2", _has(".q_weight")),
    ("EXL3", _has(".trellis")),
    ("MXFP4", _has("_blocks")),
    ("Marlin", _has(".B_24", ".B")),
    ("quanto", _has(".weight._data")),
)


def foreign_format(names: Collection[str], stored: StoredTensors) -> str | None:
    """Its name; None where no tensor gives one away."""
    for format_name, is_part in _FORMATS:
        if any(is_part(name, stored) for name in names):
            return format_name
    return None
