"""The loop's ``Verifier`` over the network. Used by the servicer; many sessions share it.

Invariant: closing never raises and never waits; a lost replica shows as ``UnavailableError`` (the loop replays) and no
replica for too long as ``NoReplicaError`` (final). Of the works that were lost together with a replica one runs at a time on each.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from router.session_closes import SessionCloses
from specgrove.errors import (
    InternalError,
    InvalidRequestError,
    ResourceExhaustedError,
    SpecGroveError,
    StaleBaseError,
    UnavailableError,
    WorkLostError,
)
from specgrove.loop.suspects import SuspectTurn
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.serving.work_stream_client import SentItem
from specgrove.v1 import llm_pb2
from specgrove.wire import works
from specgrove.wire.errors import error_from_proto
from specgrove.wire.structures import STRUCTURED_OUTPUT

if TYPE_CHECKING:
    from router.llm_replica import LlmReplica
    from router.llm_replicas import LlmPool

_MIN_BUSY_BACKOFF_S = 0.02
_MAX_BUSY_BACKOFF_S = 0.5


class RemoteVerifier:
    """All LLM replicas as one verifier."""

    def __init__(self, pool: LlmPool, *, replica_wait_s: float | None, busy_wait_s: float) -> None:
        """Waits ``replica_wait_s`` for any replica, None: by the model's size; and ``busy_wait_s`` for one that has no room."""
        self._pool = pool
        self._given_wait_s = replica_wait_s
        self._busy_wait_s = busy_wait_s
        self._closing = SessionCloses()

    def session(self, session_id: str) -> RemoteVerifierSession:
        """See ``specgrove.loop.verifying.Verifier``."""
        return RemoteVerifierSession(session_id, self._pool, self._closing, self.replica_wait_s, self._busy_wait_s)

    @property
    def replica_wait_s(self) -> float:
        """For any replica."""
        if self._given_wait_s is not None:
            return self._given_wait_s
        return 0.0 if self._pool.model is None else self._pool.model.replica_wait_s

    async def finish(self) -> None:
        """Returns when all closing is done, or has taken too long."""
        await self._closing.finish()


class RemoteVerifierSession:
    """One request, which stays on its replica while that is there."""

    def __init__(
        self, session_id: str, pool: LlmPool, closing: SessionCloses, replica_wait_s: float, busy_wait_s: float
    ) -> None:
        self._session_id = session_id
        self._pool = pool
        self._closing = closing
        self._replica_wait_s = replica_wait_s
        self._busy_wait_s = busy_wait_s
        self._turn = SuspectTurn()
        self._sent: SentItem[llm_pb2.VerifyResult] | None = None
        self._replica: LlmReplica
        self._work: VerifyWork
        self._token_ids: list[int] = []  # committed, as far as the replica knows
        self._salt = ""
        self._has_begun = False  # the work has given a verdict
        self._busy_until_s = self._backoff_s = 0.0

    async def ask(self, work: VerifyWork) -> None:
        """See ``specgrove.loop.verifying.VerifierSession``."""
        self._token_ids[work.base :] = work.new_token_ids
        if work.session is not None:
            self._salt = work.session.cache_salt
        self._replica = await self._replica_for(work)
        self._replica.session_lens[self._session_id] = work.base + len(work.new_token_ids)
        self._work, self._has_begun = work, False
        self._busy_until_s, self._backoff_s = time.monotonic() + self._busy_wait_s, _MIN_BUSY_BACKOFF_S
        self._send()

    async def answer(self) -> Verdict | PromptProgress:
        """Asks again while there is no room. Only a request without any output is sent away for it."""
        while True:
            assert self._sent is not None
            try:
                found = _found_in(await self._sent.take(), self._replica)
            except ResourceExhaustedError as error:
                self._sent.drop()
                await self._wait_for_room(error)
                self._send()
            except SpecGroveError:
                self._end()
                raise
            else:
                if isinstance(found, Verdict):
                    self._note(found)
                return found

    def finish_early(self) -> None:
        """Tells the replica, with the next message to it."""
        if self._sent is not None:
            self._sent.finish_early()

    async def close(self) -> None:
        """Tells the replica to forget the session, in the background."""
        self._end()
        for replica in self._pool.forget(self._session_id):
            self._pool.note_text(replica, self._token_ids, self._salt)
            if replica.client.connected.is_set():
                request = llm_pb2.LlmServiceCloseSessionRequest(session_id=self._session_id)
                self._closing.start(replica.stub.CloseSession, request)

    def _send(self) -> None:
        try:
            self._sent = self._replica.client.send(works.verify_work_to_proto(self._work, 0))
        except SpecGroveError:
            self._end()
            raise

    def _note(self, verdict: Verdict) -> None:
        self._token_ids[verdict.base :] = verdict.token_ids
        self._replica.session_lens[self._session_id] = len(self._token_ids)
        self._has_begun = True
        self._turn.end()  # the work does no harm
        if not verdict.has_more:
            self._end()

    def _end(self) -> None:
        """The work is done with, one way or another."""
        self._turn.end()
        if self._sent is not None:
            self._sent.drop()
            self._sent = None

    async def _wait_for_room(self, error: ResourceExhaustedError) -> None:
        """A moment; or raises what is to be done instead."""
        params = self._work.session
        is_new = params is not None and params.prompt_len == len(self._work.new_token_ids)
        problem: SpecGroveError | None = None
        if self._has_begun:
            # The session is gone, and the caller has tokens that this work knows nothing of.
            problem = StaleBaseError(0)
        elif is_new and time.monotonic() + self._backoff_s > self._busy_until_s:
            problem = ResourceExhaustedError(str(error), round(error.retry_delay_ms * _spread()))
        if problem is not None:
            self._end()
            raise problem from error
        await asyncio.sleep(self._backoff_s * _spread())
        self._backoff_s = min(self._backoff_s * 2, _MAX_BUSY_BACKOFF_S)

    async def _replica_for(self, work: VerifyWork) -> LlmReplica:
        """The session's replica; for a suspect when no other is under way there."""
        while True:
            replica = await self._replica_of(work)
            if not work.is_suspect:
                return replica
            await self._turn.take(replica.suspects)
            if replica.is_usable:
                return replica
            self._turn.end()  # the one before it took the replica down

    async def _replica_of(self, work: VerifyWork) -> LlmReplica:
        if work.base == 0:
            # A replay, or the start: the one place that waits for replicas, so that the loop's attempts are not used up.
            return await self._pool.place(self._session_id, self._replica_wait_s, self._token_ids, self._salt)
        replica = self._pool.replica_of(self._session_id)
        if replica is None or not replica.is_usable:
            raise UnavailableError("the session's LLM replica is gone")
        return replica


def _found_in(result: llm_pb2.VerifyResult, replica: LlmReplica) -> Verdict | PromptProgress:
    """Raises the error that came in place of a verdict."""
    if result.HasField("error"):
        error = error_from_proto(result.error)
        if isinstance(error, UnavailableError) and not isinstance(error, WorkLostError):
            replica.mark_draining()
        if isinstance(error, InvalidRequestError) and error.violations[0].field != STRUCTURED_OUTPUT:
            # The client's request was checked before; what is wrong now is between router and LLM service. But what an output must look
            # like may turn out to be too much in the midst of it.
            raise InternalError(f"{replica.client.address} refused an item: {error}")
        raise error
    try:
        if result.HasField("progress"):
            return works.progress_from_proto(result.progress)
        return works.verdict_from_proto(result.verdict)
    except InvalidRequestError as error:
        raise InternalError(f"{replica.client.address} sent a result that contradicts itself: {error}") from error


def _spread() -> float:
    """A factor for delays: sessions that find no room together should not all come back together."""
    return random.uniform(0.5, 1.5)
