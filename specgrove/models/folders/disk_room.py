"""Room on disks: asked for before something large is written, and told in one line when it runs out all the same.

Used by all that writes models. Imports neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded")


class DiskFullError(OSError):
    """There is too little room for what was to be written. The text says what needs how much where."""


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """What is going to be written, and about how large it will be; None where nobody knows."""

    what: str
    num_bytes: int | None = None


def check_room(folder: Path, need: DiskNeed) -> None:
    """Raises ``DiskFullError``. ``folder`` need not be there yet."""
    free = _free_bytes(folder)
    if need.num_bytes is not None and free is not None and need.num_bytes > free:
        raise DiskFullError(
            f"{need.what} needs about {_shown(need.num_bytes)} in {folder}, where {_shown(free)} are free: make room, or write to "
            "another disk"
        )


@contextlib.contextmanager
def told_when_full(folder: Path, need: DiskNeed) -> Iterator[None]:
    """Checks first, then turns what a full disk raises in the block into ``DiskFullError``."""
    check_room(folder, need)
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not is_full(error):
            raise
        free, needed = _free_bytes(folder), need.num_bytes
        about = "" if needed is None else f"; it needs about {_shown(needed)}"
        left = "" if free is None else f", {_shown(free)} are free"
        raise DiskFullError(
            f"{need.what}: the disk ran full in {folder}{left}{about}: make room, or write to another disk"
        ) from error


def is_full(error: BaseException) -> bool:
    """Whether a disk or a quota was full, by whatever library it was met."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return isinstance(error, OSError | SafetensorError) and any(text in str(error) for text in _FULL_TEXTS)


def _free_bytes(folder: Path) -> int | None:
    place = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), None)
    try:
        usage = None if place is None else shutil.disk_usage(place)
    except OSError:
        return None
    return usage.free if usage is not None and usage.total > 0 else None  # some network disks tell nothing


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
