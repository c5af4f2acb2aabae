"""What a call is called: by us, as in logs and traces, and by its client, who may send an ``x-request-id``.

Ours is drawn, whatever the client sends: sessions are named by it between the services, and two clients may send the same one.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

HEADER = "x-request-id"
"""Of HTTP, and a key of gRPC's metadata."""
# What stands in a header and in a line of a log as it is.
_WELL_FORMED = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")


class CallIds:
    """Of one call. ``of_client`` is ``None`` where the client's is missing, too long, or has other characters than those of ids."""

    def __init__(self, given: object = None) -> None:
        self.of_client = given if isinstance(given, str) and _WELL_FORMED.fullmatch(given) else None
        self.ours = uuid.uuid4().hex
        self._num_sessions = 0

    @property
    def told(self) -> str:
        """The client's own, else ours."""
        return self.of_client or self.ours

    @property
    def words_of_client(self) -> str:
        """Behind a line of the log: the client's own, if there is one."""
        return f" ({HEADER} {self.of_client})" if self.of_client else ""

    def new_session_id(self) -> str:
        """Ours; those of further outputs of the same call have a number behind it."""
        self._num_sessions += 1
        return self.ours if self._num_sessions == 1 else f"{self.ours}-{self._num_sessions}"


_under_way: ContextVar[CallIds | None] = ContextVar("call_ids", default=None)


def begin_call(given: object) -> CallIds:
    """For the task that serves the call, and for those that it starts. ``given`` is what the client sent, if anything."""
    ids = CallIds(given)
    _under_way.set(ids)
    return ids


def ids_of(context: object) -> CallIds:
    """Of the call that has begun, else of one by gRPC, by its metadata."""
    if (ids := _under_way.get()) is not None:
        return ids
    return CallIds(dict(context.invocation_metadata() or ()).get(HEADER))  # type: ignore[attr-defined]


def ids_under_way() -> CallIds:
    """Of the call that has begun; new ones, where none has."""
    return _under_way.get() or CallIds()
