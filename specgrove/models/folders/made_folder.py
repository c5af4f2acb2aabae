"""Folders that SpecGrove makes: in its cache, once for all processes (the demo model, what GGUF files lack, quantised models), or where
a command says.

Imports neither torch nor transformers. Invariant: a folder appears under its name only when it is complete, so its existence is the check.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import filelock

from specgrove.files.json_files import read_json_object
from specgrove.machine.owned_folders import owned_folder, sweep
from specgrove.models.folders.disk_room import DiskNeed, told_when_full
from specgrove.models.folders.sampled_digest import sampled_digest
from specgrove.tokenizer.files import TEMPLATE_FOLDER

_UNFINISHED = ".unfinished-"
_LAST = "config.json"
_OF_A_DISK = "lost+found"  # what a new one has
# Weights, and what speaks of weights that are not there any more.
_NOT_COPIED = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".index.json", ".h5", ".msgpack", ".onnx", ".lock")


def make_once(folder: Path, make: Callable[[], None], progress: Callable[[str], None]) -> Path:
    """Calls ``make``, which makes ``folder``, unless it is there; waits for another process that is at it."""
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.parent / f".{folder.name}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        progress(f"another process is making {folder.name}: waiting for it")
        lock.acquire()
    try:
        if not folder.is_dir():
            make()
    finally:
        lock.release()
    return folder


def digest_of(paths: Iterable[Path], *settings: object) -> str:
    """Changes with the files' names, sizes, times and content (of large ones samples are read), and with the settings."""
    files = []
    for path in sorted(paths):
        status = path.stat()
        files.append((str(path.absolute()), status.st_size, status.st_mtime_ns, sampled_digest(path)))
    return hashlib.sha256(json.dumps([files, settings], default=str).encode()).hexdigest()[:12]


def copy_other_files(source: Path, target: Path) -> None:
    """Copies config, tokenizer, chat template and whatever else there is beside the weights."""
    for path in sorted(source.iterdir()):
        if path.is_file() and not path.name.endswith(_NOT_COPIED) and not path.name.startswith("."):
            shutil.copyfile(path, target / path.name)
    if (source / TEMPLATE_FOLDER).is_dir():
        shutil.copytree(source / TEMPLATE_FOLDER, target / TEMPLATE_FOLDER)


def edit_json(path: Path, changes: Mapping[str, object]) -> None:
    """Writes a JSON object again with some values changed or added."""
    content = dict(read_json_object(path)) if path.is_file() else {}
    path.write_text(json.dumps(content | dict(changes), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def sweep_cache(cache_dir: Path) -> None:
    """Removes what killed processes left half-made in the cache. Called whenever a model is looked for."""
    sweep(cache_dir, _UNFINISHED)
    with contextlib.suppress(OSError):
        for path in list(cache_dir.iterdir()):
            if path.is_dir():
                sweep(path, _UNFINISHED)


def unfinished_folder(parent: Path, name: str) -> contextlib.AbstractContextManager[Path]:
    """An empty folder in ``parent`` that is removed at the end unless it was renamed; ``sweep_cache`` knows it by its name."""
    return owned_folder(parent, f"{_UNFINISHED}{name}-")


def check_new(target: Path) -> None:
    """Raises ``ValueError`` where something is there already, other than an empty folder, or where no folder can be made."""
    if target.exists():
        if not target.is_dir() or any(map(_is_content, target.iterdir())):
            raise ValueError(f"{target} exists already: name a new folder, or remove it")
    elif target.is_symlink():
        raise ValueError(f"{target} leads to {target.readlink()}, which is not there: name a new folder, or remove it")
    existing = next(place for place in (target, *target.absolute().parents) if place.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{target} can't be made: {existing} is no folder that can be written to")


def _is_content(path: Path) -> bool:
    return path.name != _OF_A_DISK and not path.name.startswith(_UNFINISHED)


def _must_stay(target: Path) -> bool:
    """Whether no other folder can take the place of an empty one: a container's volume, the folder that a shell is in."""
    is_special = os.path.ismount(target) or target == Path.cwd() or any(target.iterdir())
    return is_special or not os.access(target.parent, os.W_OK | os.X_OK)


@contextlib.contextmanager
def whole_folder(target: Path, need: DiskNeed) -> Iterator[Path]:
    """A folder to fill that gets its name when the block ends, and vanishes when it fails or its process is killed.

    Raises ``ValueError`` if ``target`` exists, ``DiskFullError``.
    """
    check_new(target)
    target = Path(os.path.realpath(target))  # an empty folder may be meant by a link, or as "."
    is_fixed = target.is_dir() and _must_stay(target)
    parent = target if is_fixed else target.parent
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent, _UNFINISHED)
    with told_when_full(parent, need), unfinished_folder(parent, target.name) as folder:
        yield folder
        if is_fixed:
            _fill(target, folder)
            return
        try:
            folder.rename(target)
        except OSError:  # one that must stay, and doesn't show it: a bind mount, a folder in another user's sticky one
            if not target.is_dir():
                raise
            _fill(target, folder)


def _fill(target: Path, folder: Path) -> None:
    """For a folder that can't be replaced. What makes it a model's comes last. Raises ``ValueError`` where another run has filled it."""
    check_new(target)
    for path in sorted(folder.iterdir(), key=lambda path: path.name == _LAST):
        path.rename(target / path.name)
