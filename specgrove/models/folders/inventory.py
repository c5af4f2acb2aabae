"""What models there are on this machine, and what each is: family, sizes, type and quantisation, and why it can't be served if so.

Called by ``specgrove models``. Reads configs and the headers of weight files, never weights.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError, safe_open

from specgrove.models.decoder.family import read_spec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.hub import (
    DEMO_LLM,
    ModelNotFoundError,
    check_model_folder,
    fetch_from_hub,
    is_hub_id,
    path_of,
    resolve_model,
)
from specgrove.models.folders.model_files import config_of, gguf_of, name_of, quantization_of, weight_files
from specgrove.models.weights.formats.gguf_families import main_type
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.opening import check_weights, open_checkpoint
from specgrove.settings.ssm_specs import SHIPPED_DRAFTERS

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I8": "int8", "U8": "uint8", "I32": "int32"}
_PICKLE = ("pytorch_model*.bin", "*.pt", "*.pth")


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """Fields are None where the model doesn't tell, or is of no supported family."""

    name: str
    folder: Path
    family: str | None
    """``model_type`` of config.json."""
    architecture: str | None
    num_layers: int | None
    num_heads: int | None
    num_kv_heads: int | None
    num_parameters: int | None
    """Of embedding, layers and head together, as the files hold them."""
    num_embedding_parameters: int | None
    """How many of those are the embedding's."""
    num_head_parameters: int | None
    """How many of those are the head's; 0 where the embedding is the head, too. Converters to GGUF often write it twice."""
    max_model_len: int | None
    dtype: str | None
    """What most numbers of the weights are stored as."""
    num_bytes: int | None
    """Bytes of the weights on disk; None where they are not there."""
    quantization: str | None
    problem: str | None
    """Why it can't be served."""


def describe(folder: Path) -> ModelDescription:
    """Never raises for what a folder holds: that becomes its ``problem``."""
    config = config_of(folder)
    architectures = config.get("architectures")
    problem, spec = _problem(folder), None
    with contextlib.suppress(UnsupportedModelError, OSError, ValueError):  # the problem says it
        spec = read_spec(folder)
    files = weight_files(folder) or [path for pattern in _PICKLE for path in sorted(folder.glob(pattern))]
    return ModelDescription(
        name=name_of(folder),
        folder=folder,
        family=config.get("model_type"),
        architecture=architectures[0] if isinstance(architectures, list) and architectures else None,
        num_layers=spec.num_layers if spec else None,
        num_heads=spec.num_heads if spec else None,
        num_kv_heads=spec.num_kv_heads if spec else None,
        num_parameters=spec.num_parameters if spec else None,
        num_embedding_parameters=spec.num_embedding_parameters if spec else None,
        num_head_parameters=(0 if spec.has_tied_head else spec.num_embedding_parameters) if spec else None,
        max_model_len=spec.max_position_embeddings if spec else None,
        dtype=_dtype(folder) or config.get("dtype") or config.get("torch_dtype"),
        num_bytes=sum(path.stat().st_size for path in files if path.exists()) if files else None,
        quantization=quantization_of(folder),
        problem=problem,
    )


def _problem(folder: Path) -> str | None:
    """Why it can't be served: the folder, its family, or the format of its weights."""
    try:
        if (folder / "config.json").is_file():
            read_spec(folder)
        check_model_folder(folder, needs_tokenizer=folder not in SHIPPED_DRAFTERS.values())
        with open_checkpoint(folder) as checkpoint:
            check_weights(folder, checkpoint)
        return None
    except (UnsupportedModelError, ModelNotFoundError, OSError, ValueError) as error:
        return str(error)


def _dtype(folder: Path) -> str | None:
    num_bytes: Counter[str] = Counter()
    gguf_path = gguf_of(folder)
    try:
        if gguf_path is not None:
            return main_type(GgufFile(gguf_path))
        for path in weight_files(folder):
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    size = 1
                    for length in part.get_shape():
                        size *= length
                    num_bytes[part.get_dtype()] += size
    except (UnsupportedModelError, SafetensorError, OSError):
        return None
    most = num_bytes.most_common(1)
    return _DTYPES.get(most[0][0], most[0][0]) if most else None


def cached_models(cache_dir: Path) -> Iterator[ModelDescription]:
    """Ours first, then the Hugging Face hub's, by name."""
    folders = [path for place in (cache_dir, cache_dir / "gguf", cache_dir / "quantized") for path in _children(place)]
    yield from (describe(folder) for folder in folders if (folder / "config.json").is_file())
    try:
        repositories = huggingface_hub.scan_cache_dir().repos
    except hub_errors.CacheNotFound:
        return
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        if repository.repo_type == "model":
            revisions = sorted(repository.revisions, key=lambda revision: revision.last_modified)
            yield from (describe(revision.snapshot_path) for revision in revisions[-1:])


def _children(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def find_model(model: str, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """A folder to describe, supported or not. Of hub models that aren't here, only the config is fetched.

    Raises ``ModelNotFoundError``.
    """
    folder = SHIPPED_DRAFTERS.get(model, path_of(model))
    if folder.is_dir() and (folder / "config.json").is_file():
        return folder
    if model == "lookup":
        raise ModelNotFoundError("lookup is an SSM without weights: it continues what was said before")
    if model == DEMO_LLM and not (cache_dir / DEMO_LLM).is_dir():
        raise ModelNotFoundError(f"{DEMO_LLM} is not made yet: `specgrove models download {DEMO_LLM}` makes it")
    if model == DEMO_LLM or not is_hub_id(model):
        return resolve_model(model, cache_dir=cache_dir, progress=progress)
    try:
        return Path(huggingface_hub.snapshot_download(model, local_files_only=True))
    except (hub_errors.LocalEntryNotFoundError, OSError, ValueError):
        progress(f"fetching the config of {model}")
    return fetch_from_hub(model, ("config.json",))
