"""No garbage collection while very many objects are made that live for a moment. Used for large bodies and long answers.

A collection looks at all of them in one go, for which every stream waits, and finds nothing: they are no cycles.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_num_under_way = 0


@contextlib.contextmanager
def collections_off() -> Iterator[None]:
    """Entered and left on the event loop. Collections go on when the last of those under way is left."""
    global _num_under_way
    _num_under_way += 1
    gc.disable()
    try:
        yield
    finally:
        _num_under_way -= 1
        if _num_under_way == 0:
            gc.enable()
