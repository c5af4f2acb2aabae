"""What lies in a model folder, by names and ``config.json`` alone: weight files, quantisation, what to call the model.

Used by everything that looks at folders. Imports neither torch nor transformers and opens no weight file.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

from specgrove.files.json_files import JsonFileError, read_json_object
from specgrove.models.weights.safetensors_files import weight_files_of

_OLD_QUANTIZATION_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_NO_MODELS = ("mmproj", ".")
_GGUF_MAGIC = b"GGUF"
_GGUF_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# Folders of our cache, whose models have names with digests.
_MADE_FOLDERS = ("gguf", "quantized")
_DIGEST = re.compile(r"-[0-9a-f]{12}(?=-int|$)")


def gguf_parts(path: Path) -> tuple[Path, ...]:
    """All parts that a split GGUF file's name promises, whether they are there or not; the file itself for any other."""
    match = _GGUF_PART.fullmatch(path.name)
    if match is None or not 1 <= int(match["number"]) <= int(match["count"]):
        return (path,)
    numbers = range(1, int(match["count"]) + 1)
    return tuple(path.with_name(f"{match['stem']}-{number:05d}-of-{match['count']}.gguf") for number in numbers)


def is_gguf_file(path: Path) -> bool:
    """By its name, of which any part may be there, or by how it begins: Ollama's files have no suffix."""
    if path.suffix == ".gguf":
        return any(part.is_file() for part in gguf_parts(path))
    try:
        if not path.is_file():  # to open a pipe is to wait for whoever writes to it
            return False
        with path.open("rb") as file:
            return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
    except OSError:
        return False


def gguf_files(folder: Path) -> list[Path]:
    """One path for every GGUF model in ``folder``: the first part for split ones. What only goes with a model that sees is none."""
    return sorted({gguf_parts(path)[0] for path in folder.glob("*.gguf") if not path.name.startswith(_NO_MODELS)})


def gguf_of(folder: Path) -> Path | None:
    """The GGUF file whose weights this folder has; None where it has safetensors, or several GGUF models or none."""
    if next(folder.glob("*.safetensors"), None) is not None or (folder / "model.safetensors.index.json").exists():
        return None
    paths = gguf_files(folder)
    return paths[0] if len(paths) == 1 else None


def weight_files(folder: Path) -> list[Path]:
    """Those safetensors that count, or the one GGUF model's file or parts."""
    gguf_path = gguf_of(folder)
    if gguf_path is not None:
        return [path for path in gguf_parts(gguf_path) if path.is_file()]
    try:
        return list(weight_files_of(folder).paths)
    except (OSError, JsonFileError):
        return sorted(folder.glob("*.safetensors"))


def config_of(folder: Path) -> dict[str, Any]:
    """``config.json``; empty where there is none that can be read."""
    try:
        return dict(read_json_object(folder / "config.json"))
    except (OSError, JsonFileError):
        return {}


def quantization_config_of(folder: Path) -> dict[str, Any] | None:
    """What ``config.json`` says of the weights' quantisation, or the file that was used before; None where nothing is said."""
    quantization = config_of(folder).get("quantization_config")
    if isinstance(quantization, dict) and quantization:
        return quantization
    for name, method in _OLD_QUANTIZATION_FILES.items():
        with contextlib.suppress(OSError, JsonFileError):
            return {"quant_method": method, **read_json_object(folder / name)}
    return None


def quantization_of(folder: Path) -> str | None:
    """How the weights are quantised, for people (``gptq, 4 bits``); None where they are not."""
    quantization = quantization_config_of(folder)
    if quantization is None:
        return None
    method, bits = quantization.get("quant_method", "unnamed method"), quantized_bits(folder)
    if method == "gguf" and bits is None:
        return f"gguf, {quantization.get('type')}, dequantised when it is loaded"
    return f"{method}, {bits} bits" if bits else str(method)


def quantized_bits(folder: Path) -> int | None:
    """Bits of the linears' weights; None where they are not quantised, or in a way that doesn't say."""
    quantization = quantization_config_of(folder) or {}
    bits = quantization.get("bits", quantization.get("w_bit"))
    return bits if isinstance(bits, int) else None


def quantization_kind(folder: Path) -> str | None:
    """``int8`` or ``int4`` of weights that are so, whoever quantised them."""
    return {8: "int8", 4: "int4"}.get(quantized_bits(folder) or 0)


def name_of(folder: Path) -> str:
    """What to call a model: its id if it lies in the Hugging Face hub's cache, else its folder's name, without digests of ours."""
    folder = Path(os.path.normpath(folder.absolute()))  # ".." has no name, and a link has one of its own
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return _DIGEST.sub("", folder.name) if folder.parent.name in _MADE_FOLDERS else folder.name
