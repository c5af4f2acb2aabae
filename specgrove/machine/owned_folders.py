"""Folders that live as long as their owner: whoever comes next removes those whose owners are gone, however they ended.

Used for models in the making (``specgrove.models.folders.made_folder``), and for temporary folders of services and suites. Beside every
such folder lies a file that its owner holds locked for as long as it lives: the system lets go of it even at SIGKILL, so a lock that can
be taken means that nobody works there, in no other container either. Invariant: a folder has its file from before it is made until after
it is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from specgrove.addresses import MAX_SOCKET_PATH_BYTES, NOT_IN_SOCKET_PATHS

_SUFFIX = ".lock"
_NUM_RANDOM_BYTES = 4
# Where all may write, and paths are short: jobs of clusters and build systems have their temporary folders deep in others.
_SHORT_PLACES = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))


@contextlib.contextmanager
def owned_folder(parent: Path, prefix: str, *, is_private: bool = False) -> Iterator[Path]:
    """An empty folder in ``parent`` whose name begins with ``prefix``; removed at the end unless it was renamed.

    Nobody but this user may look into a private one.
    """
    with _own_lock(parent, prefix) as lock_path:
        folder = _folder_of(lock_path)
        folder.mkdir(mode=0o700 if is_private else 0o777)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(prefix: str, *, socket_names: Collection[str] = ()) -> Iterator[Path]:
    """A private one where temporary files lie. What owners of such folders left there when they were killed is removed first.

    On a disk that knows no locks it works all the same, but what is left there stays. Where the usual place has a path that is too long
    for the sockets of ``socket_names``, it is another one.
    """
    parent = _place_for(prefix, socket_names) if socket_names else Path(tempfile.gettempdir())
    sweep(parent, prefix)
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(owned_folder(parent, prefix, is_private=True))
        except OSError:
            unowned = tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(unowned))
        yield folder


def sweep(parent: Path, prefix: str) -> None:
    """Removes this user's folders in ``parent`` whose owners are gone. Does nothing where it may not or can't."""
    with contextlib.suppress(OSError):
        for lock_path in list(parent.glob(f"{prefix}*{_SUFFIX}")):
            with contextlib.suppress(OSError), _lock(lock_path, os.O_RDWR) as is_ours:
                if is_ours:
                    shutil.rmtree(_folder_of(lock_path), ignore_errors=True)
                    lock_path.unlink()


def _place_for(prefix: str, socket_names: Collection[str]) -> Path:
    """The usual place also where none will do: whoever listens there says what is wrong with it."""
    usual = Path(tempfile.gettempdir())
    rest = max(map(len, socket_names)) + len(f"/{prefix}/") + 2 * _NUM_RANDOM_BYTES

    def will_do(place: Path) -> bool:
        is_short = len(os.fsencode(place)) + rest <= MAX_SOCKET_PATH_BYTES
        return is_short and NOT_IN_SOCKET_PATHS not in str(place) and os.access(place, os.W_OK | os.X_OK)

    return next(filter(will_do, (usual, *_SHORT_PLACES)), usual)


def _folder_of(lock_path: Path) -> Path:
    return lock_path.with_name(lock_path.name.removesuffix(_SUFFIX))


@contextlib.contextmanager
def _own_lock(parent: Path, prefix: str) -> Iterator[Path]:
    while True:
        path = parent / f"{prefix}{secrets.token_hex(_NUM_RANDOM_BYTES)}{_SUFFIX}"
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
    """Whether the file is this user's, locked by us, and still the one of this name. Raises ``OSError`` where the disk knows no locks."""
    file = os.open(path, flags | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # held by a living owner
            yield False
            return
        locked = os.fstat(file)
        yield locked.st_uid == os.geteuid() and path.exists() and os.path.samestat(locked, path.stat())
    finally:
        os.close(file)
