"""Folders in the making, which whoever comes next removes when their maker is gone, however it ended.

Used by ``specgrove.models.made_folder``. Beside every such folder lies a file that its maker holds locked for as long as it lives: the
system lets go of it even at SIGKILL, so a lock that can be taken means that nobody works there. Invariant: a folder has its file from
before it is made until after it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _SUFFIX = ".unfinished-", ".lock"


@contextlib.contextmanager
def unfinished_folder(parent: Path, name: str) -> Iterator[Path]:
    """An empty folder in ``parent``; removed at the end unless it was renamed."""
    with _own_lock(parent, name) as lock_path:
        folder = lock_path.with_name(lock_path.name.removesuffix(_SUFFIX))
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Removes the unfinished folders in ``parent`` whose makers are gone. Does nothing where it may not or can't."""
    with contextlib.suppress(OSError):
        for lock_path in list(parent.glob(f"{_PREFIX}*{_SUFFIX}")):
            with contextlib.suppress(OSError), _lock(lock_path, os.O_RDWR) as is_ours:
                if is_ours:
                    shutil.rmtree(lock_path.with_name(lock_path.name.removesuffix(_SUFFIX)), ignore_errors=True)
                    lock_path.unlink()


@contextlib.contextmanager
def _own_lock(parent: Path, name: str) -> Iterator[Path]:
    while True:
        path = parent / f"{_PREFIX}{name}-{secrets.token_hex(4)}{_SUFFIX}"
        try:
            with _lock(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as is_ours:
                if is_ours:
                    yield path
                    return
        finally:
            path.unlink(missing_ok=True)
        # A sweeper came between: again under another name.


@contextlib.contextmanager
def _lock(path: Path, flags: int) -> Iterator[bool]:
    """Whether the file is locked by us, and still the one of this name. Raises ``OSError`` where the disk knows no locks."""
    file = os.open(path, flags, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # held by a living maker
            yield False
            return
        yield path.exists() and os.path.samestat(os.fstat(file), path.stat())
    finally:
        os.close(file)
