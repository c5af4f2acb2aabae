"""From what a user names (a folder, a GGUF file, the demo model, a hub id) to a checked model folder. Called by the services' ``__main__``.

Imports neither torch nor transformers, so that a launcher stays light. Invariant: what is returned holds a config, complete
safetensors or one GGUF file and, unless told otherwise, a tokenizer; pickle files are never downloaded and never read.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError, safe_open

from specgrove.files.json_files import JsonFileError, is_lfs_pointer, lfs_remedy, read_json_object
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders import demo
from specgrove.models.folders.disk_room import DiskFullError, is_full
from specgrove.models.folders.gguf_model import ensure_gguf_folder
from specgrove.models.folders.hub_checks import problem_of_hub_model
from specgrove.models.folders.hub_weights import TRANSFER_ERRORS, fetch_weights
from specgrove.models.folders.made_folder import sweep_cache
from specgrove.models.folders.missing import WEIGHT_SUFFIXES, no_config, not_there
from specgrove.models.folders.model_files import gguf_files, gguf_of, is_gguf_file
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.models.weights.safetensors_files import weight_files_of
from specgrove.settings.ssm_specs import SHIPPED_DRAFTERS
from specgrove.tokenizer.files import TEMPLATE_FOLDER

DEMO_LLM = demo.DEMO_LLM
SMALL_FILES = ("*.json", "tokenizer.model", "chat_template.jinja", f"{TEMPLATE_FOLDER}/*.jinja")
DOWNLOADED_FILES = ("*.safetensors", *SMALL_FILES)
# Other frameworks' folders (a star stands for a slash, too), and Mistral's second copy of the weights.
IGNORED_FILES = ("*/*.safetensors", "*/*.json", "consolidated*")
PICKLE_PATTERNS = ("pytorch_model*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_MAX_SHOWN_LEN = 100
_SHOWN = 3  # missing files that are named
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")


class ModelNotFoundError(ValueError):
    """No usable model at the place named. The text says what is wrong and what would be right."""


def resolve_model(
    model: str, *, cache_dir: Path, progress: Callable[[str], None], needs_tokenizer: bool = True
) -> Path:
    """The folder of ``model``: a folder, a GGUF file or ``DEMO_LLM`` (made in ``cache_dir`` once), or a Hugging Face hub id.

    ``needs_tokenizer`` is False for SSMs, which take token ids only. Raises ``ModelNotFoundError``.
    """
    sweep_cache(cache_dir)
    folder = path_of(model)
    gguf_path = _gguf_file(folder, needs_tokenizer)
    if gguf_path is not None:
        try:
            folder = ensure_gguf_folder(gguf_path, cache_dir, progress)
        except (OSError, ValueError, ImportError) as error:
            raise ModelNotFoundError(f"{gguf_path} can't be served: {error}") from error
        try:
            check_model_folder(folder)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(
                f"{folder}, which is made from {gguf_path}, is damaged ({error}): remove it, and it is made anew"
            ) from error
        return folder
    if model and folder.is_dir():
        check_model_folder(folder, needs_tokenizer=needs_tokenizer)
        return folder
    if model == DEMO_LLM:
        try:
            folder = demo.ensure_demo_llm(cache_dir, progress)
        except demo.DemoModelError as error:
            raise ModelNotFoundError(str(error)) from error
        check_model_folder(folder)
        return folder
    _check_place(model, folder, needs_tokenizer)
    return _download(model, progress, needs_tokenizer)


def check_named(model: str, *, needs_tokenizer: bool = True) -> None:
    """What is wrong with ``model`` as far as it shows at once: nothing is fetched, converted or made. Raises ``ModelNotFoundError``."""
    folder = path_of(model)
    if is_gguf_file(folder):
        _check_gguf(folder)
    elif model and folder.is_dir():
        if _gguf_file(folder, needs_tokenizer) is None:
            check_model_folder(folder, needs_tokenizer=needs_tokenizer)
    elif model != DEMO_LLM:
        _check_place(model, folder, needs_tokenizer)


def _check_place(model: str, folder: Path, needs_tokenizer: bool) -> None:
    """For a name that is no folder, no GGUF file and not the demo model: it may be in the hub."""
    shipped = _shipped(needs_tokenizer)
    near = difflib.get_close_matches(model, shipped, n=1, cutoff=0.8)
    if near and "/" not in model and not folder.exists():
        raise ModelNotFoundError(f"there is no folder or file {model!r}; did you mean {near[0]}?")
    ours = _any_of(shipped)
    if model and not is_hub_id(model) and not folder.exists() and "://" not in model:
        raise ModelNotFoundError(
            f"{not_there(folder)}; give a model folder, a .gguf file, an id like 'owner/name', or {ours}"
        )
    if folder.is_file():
        raise ModelNotFoundError(f"{model!r} is a file and no GGUF file: give the folder it lies in")
    if not is_hub_id(model):
        raise ModelNotFoundError(
            f"{model!r} is no model folder and no hub id: give a model folder, a .gguf file, an id like 'owner/name', or {ours}"
        )


def _shipped(needs_tokenizer: bool) -> tuple[str, ...]:
    """What there is without the hub: for an LLM, or else, where no tokenizer is needed, for an SSM."""
    return (DEMO_LLM,) if needs_tokenizer else ("lookup", "recycle", *SHIPPED_DRAFTERS)


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def path_of(model: str) -> Path:
    """What is named, as a path, whether or not anything is there. Raises ``ModelNotFoundError`` for what can't be one."""
    try:
        path = Path(model).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            os.lstat(path)
        return path
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        shown = model if len(model) <= _MAX_SHOWN_LEN else model[:_MAX_SHOWN_LEN] + "…"
        raise ModelNotFoundError(f"{shown!r} can't be a path ({reason}), and is no hub id") from error


def is_hub_id(model: str) -> bool:
    """Whether it may be an id of the Hugging Face hub, and names nothing on this machine."""
    looks_like_path = model.startswith((".", "~", os.sep)) or model.count("/") > 1 or Path(model).expanduser().exists()
    return not looks_like_path and not model.endswith(WEIGHT_SUFFIXES) and _HUB_ID.fullmatch(model) is not None


def _gguf_file(path: Path, needs_tokenizer: bool) -> Path | None:
    """A file that needs a folder of its own: a GGUF file by itself, or in a folder that lacks the files it goes with."""
    if is_gguf_file(path):
        return path
    gguf_path = gguf_of(path) if path.is_dir() else None
    needed = ("config.json", "tokenizer.json") if needs_tokenizer else ("config.json",)
    return None if all((path / name).is_file() for name in needed) else gguf_path


def _download(model: str, progress: Callable[[str], None], needs_tokenizer: bool) -> Path:
    """The hub's snapshot of ``model``; complete files are not fetched again."""
    progress(f"fetching {model} from the Hugging Face hub")
    shipped = _shipped(needs_tokenizer)
    if not _is_here(model):
        folder = fetch_from_hub(model, SMALL_FILES, shipped)
        try:
            problem = problem_of_hub_model(model, folder, needs_tokenizer=needs_tokenizer)
        except (UnsupportedModelError, JsonFileError, OSError) as error:
            raise ModelNotFoundError(f"{model!r} can't be served: {error}") from error
        if problem is not None:
            raise ModelNotFoundError(problem)
    folder = fetch_from_hub(model, DOWNLOADED_FILES, shipped)
    check_model_folder(folder, needs_tokenizer=needs_tokenizer)
    return folder


def _is_here(model: str) -> bool:
    """Whether its weights, or some of them, were fetched before."""
    with contextlib.suppress(*TRANSFER_ERRORS):
        folder = Path(huggingface_hub.snapshot_download(model, local_files_only=True))
        return next(folder.glob("*.safetensors"), None) is not None
    return False


def fetch_from_hub(model: str, patterns: tuple[str, ...], shipped: Sequence[str] = (DEMO_LLM,)) -> Path:
    """The snapshot of ``model`` with the files that match, in the library's own cache (``HF_HOME``). Raises ``ModelNotFoundError``.

    ``shipped`` are names that could be used instead.
    """
    try:
        fetch_weights(model, patterns, IGNORED_FILES)
        return Path(
            huggingface_hub.snapshot_download(model, allow_patterns=list(patterns), ignore_patterns=list(IGNORED_FILES))
        )
    except hub_errors.GatedRepoError as error:
        raise ModelNotFoundError(
            f"{model!r} is gated: accept its licence on the hub and run `hf auth login`"
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"the hub has no model {model!r} that you may read: check the id, or `hf auth login` for a private one, or use "
            f"{_any_of(shipped)}"
        ) from error
    except hub_errors.LocalEntryNotFoundError as error:
        offline = "HF_HUB_OFFLINE is set" if huggingface_hub.constants.HF_HUB_OFFLINE else "the hub can't be reached"
        raise ModelNotFoundError(
            f"{model!r} is no folder or file here, it is not in the local hub cache, and {offline}: give a folder, go online, or "
            f"use {_any_of(shipped)}"
        ) from error
    except TRANSFER_ERRORS as error:
        if is_full(error):
            place = huggingface_hub.constants.HF_HUB_CACHE
            raise DiskFullError(
                f"fetching {model}: the disk ran full in {place}: make room, or set HF_HOME to a folder on another disk"
            ) from error
        is_nameless = isinstance(error, FileNotFoundError) and error.filename is None  # OpenSSL names no file
        hint = "; is it the certificates' file that SSL_CERT_FILE names?" if is_nameless else ""
        raise ModelNotFoundError(f"{model!r} could not be fetched from the hub: {error}{hint}") from error


def check_model_folder(folder: Path, *, needs_tokenizer: bool = True) -> None:
    """Raises ``ModelNotFoundError`` unless ``folder`` holds a config, complete safetensors and (if needed) a tokenizer."""
    if not folder.is_dir():
        kind = "is a file, not a folder" if folder.exists() else "does not exist"
        raise ModelNotFoundError(f"model folder {folder} {kind}")
    config_path = folder / "config.json"
    gguf_names = [path.name for path in gguf_files(folder)]
    if not config_path.is_file() and len(gguf_names) > 1:
        raise ModelNotFoundError(f"{folder} has several GGUF files: name one of {', '.join(gguf_names)}")
    if not config_path.is_file():
        raise ModelNotFoundError(no_config(folder))
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file():
            _read_object(folder / name)
    gguf_path = gguf_of(folder)
    if gguf_path is not None:
        _check_gguf(gguf_path)
    else:
        for path in _weight_files(folder):
            _check_safetensors(path)
    if needs_tokenizer and not (folder / "tokenizer.json").is_file():
        raise ModelNotFoundError(f"{folder} has no tokenizer.json: save the model's fast tokenizer into it")


def _read_object(path: Path) -> None:
    try:
        read_json_object(path)
    except (JsonFileError, OSError) as error:
        raise ModelNotFoundError(str(error)) from error


def _weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files to read, all of which are there. Never empty."""
    try:
        files = weight_files_of(folder)
    except (JsonFileError, OSError) as error:
        raise ModelNotFoundError(str(error)) from error
    missing = [path.name for path in files.paths if not path.is_file()]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else "")
        listed = ", which its index lists" if files.file_of is not None else " (a broken link, or no file)"
        raise ModelNotFoundError(f"{folder} lacks {shown}{listed}: fetch it again")
    if files.paths:
        return files.paths
    if (folder / "adapter_config.json").is_file():
        raise ModelNotFoundError(
            f"{folder} holds an adapter (LoRA), no whole model: merge it into its base model first"
        )
    if any(next(folder.glob(pattern), None) for pattern in PICKLE_PATTERNS):
        raise ModelNotFoundError(
            f"{folder} holds pickle files, which SpecGrove never loads: make safetensors of them with "
            f"`specgrove models convert {folder} NEW_FOLDER`"
        )
    raise ModelNotFoundError(f"{folder} has no *.safetensors file: SpecGrove loads weights from safetensors only")


def _check_safetensors(path: Path) -> None:
    """Opens the header, whose offsets must cover the file exactly. Reads no weights."""
    if is_lfs_pointer(path):
        raise ModelNotFoundError(lfs_remedy(path))
    try:
        with safe_open(path, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelNotFoundError(
            f"{path} ({path.stat().st_size} bytes) is truncated or no safetensors file, fetch it again: {error}"
        ) from error


def _check_gguf(path: Path) -> None:
    """Opens it and its other parts: whole, and all there. Reads no weights."""
    try:
        GgufFile(path)
    except UnsupportedModelError as error:
        raise ModelNotFoundError(str(error)) from error
