"""Models that ``--quantization`` asks for: quantised once, kept in the cache, found again by a digest of what they were made from.

Called by the LLM service and the command line. A second call imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specgrove.models.folders.made_folder import digest_of, make_once
from specgrove.models.folders.model_files import name_of, quantization_config_of, quantization_of

_BITS = {"int8": 8, "int4": 4}
_FORMAT_VERSION = 2


def needs_quantizing(folder: Path, quantization: str) -> bool:
    """Whether its weights are not yet what is asked for. Raises ``ValueError`` for what can't be quantised."""
    if quantization == "none":
        return False
    if quantization not in _BITS:
        raise ValueError(f"quantization must be none, {' or '.join(_BITS)}, got {quantization!r}")
    quantization_config = quantization_config_of(folder)
    if quantization_config is None:
        return True
    method, bits = quantization_config.get("quant_method"), quantization_config.get("bits")
    if method in ("specgrove", "gguf") and bits == _BITS[quantization]:
        return False
    if method == "gguf":  # those are dequantised first
        return True
    raise ValueError(
        f"{folder} is quantised already ({quantization_of(folder)}): leave out --quantization, or give the model that it was made from"
    )


def ensure_quantized(folder: Path, quantization: str, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """The folder of the quantised model; ``folder`` itself for "none" and where it is so already.

    Raises ``ValueError`` for what can't be quantised.
    """
    if not needs_quantizing(folder, quantization):
        return folder
    files = [path for path in folder.iterdir() if path.is_file()]
    digest = digest_of(files, quantization, _FORMAT_VERSION)
    target = cache_dir / "quantized" / f"{name_of(folder).replace('/', '--')}-{digest}-{quantization}"

    def make() -> None:
        from specgrove.models.weights.quantization import quantize_folder  # brings torch

        progress(f"quantising {name_of(folder)} to {quantization}, once")
        quantize_folder(folder, target, _BITS[quantization], progress=progress)
        progress(f"quantised model in {target}")

    return make_once(target, make, progress)
