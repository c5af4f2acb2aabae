"""The loop's ``Drafter`` over the network: a set of SSM services with the same SSMs. Used by the servicer; many sessions share it.

Invariants: closing never raises and never waits. A session stays at its service while that is there and keeps up. Then it goes on at
another one, which says that it lacks tokens, and is sent them: to the loop it is the same drafter, with less of the session.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from router.ssm_replica import SsmReplica
from specgrove.errors import StaleBaseError, UnavailableError, WorkLostError
from specgrove.loop.request import Draft, DraftWork

logger = logging.getLogger(__name__)

# A tree that takes longer than this comes too late for its step. Not so what has a prompt to read first.
_LATE_S = 1.0
_MAX_NUM_NEW_TOKENS = 64


class RemoteDrafter:
    """One per set."""

    def __init__(self, members: Callable[[], Sequence[SsmReplica]]) -> None:
        """``members`` are the set's services, now."""
        self._members = members

    async def draft(self, work: DraftWork) -> Draft:
        """The trees of the session's service. Raises ``UnavailableError`` when none is there.

        After the loss of one that may have died of this work the next draft goes to another, not this one: see ``WorkLostError``.
        """
        replica = self._replica_for(work.session_id)
        started_s = asyncio.get_running_loop().time()
        try:
            draft = await replica.draft(work)
        except WorkLostError:
            raise
        except UnavailableError as error:
            replica.session_ids.discard(work.session_id)
            if self._least_busy() is None:
                raise
            raise StaleBaseError(0, f"{error}; another one goes on") from error
        is_short = work.base > 0 and len(work.new_token_ids) <= _MAX_NUM_NEW_TOKENS
        if is_short and asyncio.get_running_loop().time() - started_s > _LATE_S:
            self._relieve(replica, work.session_id)
        return draft

    async def close(self, session_id: str) -> None:
        """Tells the session's service to forget it, in the background."""
        for replica in self._members():
            replica.close_session(session_id)

    def _replica_for(self, session_id: str) -> SsmReplica:
        """Another one than before will say that it lacks tokens."""
        here = next((replica for replica in self._members() if session_id in replica.session_ids), None)
        if here is not None and here.is_usable:
            return here
        chosen = self._least_busy()
        if chosen is None:
            raise UnavailableError("no SSM service with these SSMs is there")
        chosen.session_ids.add(session_id)
        return chosen

    def _relieve(self, replica: SsmReplica, session_id: str) -> None:
        """Moves a session of a service that can't keep up to one with fewer. So they get even, and no session goes to and fro."""
        other = self._least_busy()
        if other is not None and len(other.session_ids) + 1 < len(replica.session_ids):
            logger.info("%s drafts too late; a session goes to %s", replica.client.address, other.client.address)
            replica.close_session(session_id)
            other.session_ids.add(session_id)

    def _least_busy(self) -> SsmReplica | None:
        free = [replica for replica in self._members() if replica.takes_sessions]
        return min(free, key=lambda replica: len(replica.session_ids), default=None)
