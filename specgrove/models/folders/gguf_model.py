"""The model folder of a GGUF file: config and tokenizer from its metadata, and links to the file's parts, in the cache.

Called by ``specgrove.models.folders.hub``, by ``specgrove.models.folders.demo`` for a tokenizer, and by conversion. A second call for the
same file imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.disk_room import DiskNeed
from specgrove.models.folders.gguf_tokenizer import end_ids, tokenizer_of
from specgrove.models.folders.made_folder import digest_of, make_once, whole_folder
from specgrove.models.folders.model_files import gguf_of, gguf_parts, quantization_config_of, weight_files
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.tokenizer import Tokenizer

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# How the model's makers would have tokens chosen, by the keys of Hugging Face's file.
_SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
_FORMAT_VERSION = 5  # of what is written here: folders of other versions are not taken


def ensure_gguf_folder(path: Path, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """Made once in ``cache_dir``. Raises ``ValueError`` for a file that can't be served, ``OSError`` if it isn't there."""
    parts = gguf_parts(path)
    if missing := [part.name for part in parts if not part.is_file()]:
        GgufFile(path)  # says which
        raise FileNotFoundError(f"{missing[0]} is not there")
    folder = cache_dir / "gguf" / f"{path.stem}-{digest_of(parts, _FORMAT_VERSION)}"

    def make() -> None:
        progress(f"reading the metadata of {path.name}, once")
        with whole_folder(folder, DiskNeed(f"the tokenizer of {path.name}")) as unfinished:
            write_config_and_tokenizer(GgufFile(path), unfinished, progress)
            for part in parts:
                (unfinished / (part.name if len(parts) > 1 else "model.gguf")).symlink_to(part.absolute())

    return make_once(folder, make, progress)


def weights_note(folder: Path, dtype: str) -> str | None:
    """In a line for people, what is made of the weights of a GGUF file's folder, or of one quantised from it; None for others."""
    quantization, gguf_path = quantization_config_of(folder) or {}, gguf_of(folder)
    size = _gigabytes(sum(path.stat().st_size for path in weight_files(folder)))
    if "made_from" in quantization:
        return (
            f"weights: {quantization['made_from']} of a GGUF file, re-quantised to {quantization['bits']} bits, {size}"
        )
    if gguf_path is None:
        return None
    if quantization.get("quant_method") != "gguf":  # plain weights, or a config.json that isn't ours
        from specgrove.models.weights.formats.gguf_config import quantization_config_of_gguf  # brings torch

        quantization = quantization_config_of_gguf(GgufFile(gguf_path)) or {}
    kind = quantization.get("type")
    if kind is None:
        return f"weights: {size} in a GGUF file, not quantised, computed in {dtype}"
    if "bits" in quantization:
        return f"weights: {kind} in a GGUF file, kept at their size, {size}"
    in_memory = _gigabytes(quantization["num_weights"] * _DTYPE_BYTES[dtype])
    return f"weights: {kind} in a GGUF file of {size}, dequantised to {dtype}, {in_memory} (--quantization int8 takes less)"


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB"


def write_config_and_tokenizer(file: GgufFile, folder: Path, progress: Callable[[str], None]) -> None:
    """What a model folder needs beside its weights. Raises ``UnsupportedModelError``."""
    from specgrove.models.weights.formats.gguf_config import config_of_gguf  # brings torch
    from specgrove.models.weights.formats.gguf_families import check_tensors

    config = config_of_gguf(file)
    check_tensors(file)
    num_tokens = len(file.metadata.texts("tokenizer.ggml.tokens"))
    if num_tokens > config["vocab_size"]:
        raise UnsupportedModelError(
            f"{file.path}: its tokenizer has {num_tokens} tokens and its embedding {config['vocab_size']}: they are of different models"
        )
    _write_json(folder / "config.json", config)
    tokens = {name: config[name] for name in ("bos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", tokens | {"eos_token_id": end_ids(file) or None} | _sampling(file))
    write_tokenizer(file, folder, progress)
    try:
        Tokenizer.from_folder(folder)
    except ValueError as error:
        raise UnsupportedModelError(
            f"{file.path}: the tokenizer in its metadata is not one: {str(error).removeprefix(f'{folder}: ')}"
        ) from error


def _sampling(file: GgufFile) -> dict[str, float]:
    """What is no number is left out: the model can be served all the same."""
    values, found = file.metadata.below("general.sampling"), dict[str, float]()
    for name, key in _SAMPLING.items():
        with contextlib.suppress(UnsupportedModelError):
            found |= {name: float(f"{values.number(key):.7g}")} if key in values else {}
    return found


def write_tokenizer(file: GgufFile, folder: Path, progress: Callable[[str], None]) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template. Raises ``UnsupportedModelError``."""
    files = tokenizer_of(file)
    _write_json(folder / "tokenizer.json", files.tokenizer)
    _write_json(folder / "tokenizer_config.json", files.config)
    for name, template in files.chat_templates.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(template, encoding="utf-8")
    for warning in files.warnings:
        progress(f"warning: {warning}")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
