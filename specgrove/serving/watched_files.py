"""Values that are made of files, and made anew when the files have changed: certificates and keys, which are exchanged while servers run.

Used by what needs them, each time that it does: nothing runs in between. Invariant: a value is of files as they were at one moment;
where new ones are no good, the log says so once, and the last good value stays. They are tried again each time: what was wrong may have
been the machine (no free file descriptor, a clock that is slow) rather than the files.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

ValueT = TypeVar("ValueT")

# Files that are being written change while they are read; a link that is turned to other files does so once.
_MAX_NUM_READS = 5
_State = tuple[tuple[int, ...] | None, ...]


class WatchedFiles(Generic[ValueT]):
    """One value. Used from any thread."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], ValueT]) -> None:
        """``read`` makes the value, and raises ``ValueError`` or ``OSError`` that say what is wrong; so does this."""
        self._paths = tuple(paths)
        self._read = read
        self._lock = threading.Lock()
        self._seen, self._value = self._read_steadily()
        self._told: tuple[_State, str] | None = None

    def newest(self) -> ValueT:
        """Of the files as they are now, or of the last good ones."""
        with self._lock:
            if self._state() != self._seen:
                self._read_anew()
            return self._value

    def _read_anew(self) -> None:
        names = ", ".join(map(str, self._paths))
        state = self._state()
        try:
            self._seen, self._value = self._read_steadily()
        except (ValueError, OSError) as error:
            if (state, str(error)) != self._told:
                self._told = state, str(error)
                logger.error("changed, and no good: %s; what was read before stays in use", error)
        else:
            logger.info("read anew: %s", names)

    def _read_steadily(self) -> tuple[_State, ValueT]:
        for _ in range(_MAX_NUM_READS - 1):
            state = self._state()
            try:
                value = self._read()
            except (ValueError, OSError):
                if self._state() == state:
                    raise
            else:
                if self._state() == state:
                    return state, value
        return self._state(), self._read()

    def _state(self) -> _State:
        return tuple(map(_state_of, self._paths))


def _state_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another one at the same path, links followed; ``None`` where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
