"""The loop's ``Drafter`` over the network: a set of SSM services with the same SSMs. Used by the servicer; many sessions share it.

Invariants: closing never raises and never waits. A session stays at its service while that is there and keeps up. Then it goes on at
another one, which says that it lacks tokens, and is sent them: to the loop it is the same drafter, with less of the session.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from router.ssm_replica import SsmReplica
from specgrove.errors import SpecGroveError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.loop.works import Draft, DraftWork
from specgrove.serving.work_stream_client import SentItem
from specgrove.v1 import ssm_pb2

logger = logging.getLogger(__name__)

# A tree that takes longer than this comes too late for its step. Not so what has a prompt to read first.
_LATE_S = 1.0
_MAX_NUM_NEW_TOKENS = 64


class RemoteDrafter:
    """One per set."""

    def __init__(self, members: Callable[[], Sequence[SsmReplica]]) -> None:
        """``members`` are the set's services, now."""
        self._members = members

    def session(self, session_id: str) -> RemoteDrafterSession:
        """See ``specgrove.loop.drafter_side.Drafter``."""
        return RemoteDrafterSession(session_id, self._members)


class RemoteDrafterSession:
    """One request."""

    def __init__(self, session_id: str, members: Callable[[], Sequence[SsmReplica]]) -> None:
        self._session_id = session_id
        self._members = members
        self._replica: SsmReplica | None = None  # that was asked last
        self._sent: SentItem[ssm_pb2.DraftResult] | None = None
        self._sent_s = 0.0
        self._is_short = False

    def is_there(self, ssms: tuple[str, ...]) -> bool:
        """Whether a service is there that is asked for it now, or would be."""
        here = self._here()
        if here is not None and here.is_usable and here.has_any(ssms):
            return True
        return any(
            replica.has_any(ssms)
            and (replica.is_usable if self._session_id in replica.session_ids else replica.takes_sessions)
            for replica in self._members()
        )

    def ask(self, work: DraftWork) -> bool:
        """Asks the session's service. Raises ``UnavailableError`` when none is there."""
        self._drop_sent()
        replica = self._replica = self._place()
        self._is_short = work.base > 0 and len(work.new_token_ids) <= _MAX_NUM_NEW_TOKENS
        self._sent_s = time.monotonic()
        try:
            self._sent, may_go_ahead = replica.send(work)
        except UnavailableError as error:
            raise self._moving(replica, error) from error
        return may_go_ahead

    async def answer(self) -> Draft:
        """The trees. Raises ``UnavailableError`` when no service is there.

        After the loss of one that may have died of this work the next draft goes to another, not this one: see ``WorkLostError``.
        """
        replica, sent = self._replica, self._sent
        assert replica is not None, "nothing was asked"
        assert sent is not None
        goes_on = False
        try:
            draft = replica.draft_in(await sent.take())
            goes_on = draft.has_more
        except WorkLostError:
            raise
        except UnavailableError as error:
            raise self._moving(replica, error) from error
        finally:
            if not goes_on:
                sent.drop()
        if self._is_short and time.monotonic() - self._sent_s > _LATE_S:
            self._relieve(replica)
        return draft

    def grown(self) -> list[Draft]:
        """What has come since the answer: of each SSM the newest, for the others are of no more use."""
        newest: list[ssm_pb2.DraftResult] = []
        ssms: set[str] = set()
        for result in reversed([] if self._sent is None else self._sent.taken()):
            names = {drafted.ssm for drafted in result.draft.trees}
            if not names <= ssms:
                newest.append(result)
                ssms |= names
        return [] if self._replica is None else [self._replica.draft_in(result) for result in reversed(newest)]

    def _drop_sent(self) -> None:
        """Nobody waits for more of what was asked last."""
        if self._sent is not None:
            self._sent.drop()
            self._sent = None

    async def close(self) -> None:
        """Tells the session's service to forget it, and those that it has left, in the background."""
        self._drop_sent()
        for replica in self._members():
            replica.close_session(self._session_id)

    def _place(self) -> SsmReplica:
        """Another one than before will say that it lacks tokens."""
        here = self._here()
        if here is not None and here.is_usable:
            return here
        chosen = self._least_busy()
        if chosen is None:
            raise UnavailableError("no SSM service with these SSMs is there")
        chosen.session_ids.add(self._session_id)
        return chosen

    def _here(self) -> SsmReplica | None:
        """The service that drafts for the session now. One that is lost has forgotten all its sessions."""
        last = self._replica
        if last is not None and self._session_id in last.session_ids:
            return last
        return next((replica for replica in self._members() if self._session_id in replica.session_ids), None)

    def _moving(self, replica: SsmReplica, error: UnavailableError) -> SpecGroveError:
        """The session leaves the service that is away, or has none of its SSMs. Returns what the loop is to be told."""
        replica.leave(self._session_id)
        return error if self._least_busy() is None else StaleBaseError(0, f"{error}; another one goes on")

    def _relieve(self, replica: SsmReplica) -> None:
        """Moves the session of a service that can't keep up to one with fewer. So they get even, and no session goes to and fro."""
        other = self._least_busy()
        if other is not None and len(other.session_ids) + 1 < len(replica.session_ids):
            logger.info("%s drafts too late; a session goes to %s", replica.client.address, other.client.address)
            replica.leave(self._session_id)
            other.session_ids.add(self._session_id)

    def _least_busy(self) -> SsmReplica | None:
        free = [replica for replica in self._members() if replica.takes_sessions]
        return min(free, key=lambda replica: len(replica.session_ids), default=None)
