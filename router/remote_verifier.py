"""The loop's ``Verifier`` over the network. Used by the servicer; many sessions share it.

Invariant: closing never raises and never waits; a lost replica shows as ``UnavailableError`` (the loop replays) and no
replica for too long as ``NoReplicaError`` (final). Of the works that were lost together with a replica one runs at a time on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from router.session_closes import SessionCloses
from specgrove.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    ResourceExhaustedError,
    StaleBaseError,
    UnavailableError,
    WorkLostError,
)
from specgrove.loop.request import PromptProgress, Verdict, VerifyWork
from specgrove.v1 import llm_pb2
from specgrove.wire import works
from specgrove.wire.structures import STRUCTURED_OUTPUT

if TYPE_CHECKING:
    from router.llm_replica import LlmReplica
    from router.llm_replicas import LlmPool

_MIN_BUSY_BACKOFF_S = 0.02
_MAX_BUSY_BACKOFF_S = 0.5


class RemoteVerifier:
    """All LLM replicas as one verifier. A session stays on its replica while that is there."""

    def __init__(self, pool: LlmPool, *, replica_wait_s: float, busy_wait_s: float) -> None:
        """Waits ``replica_wait_s`` for any replica, and ``busy_wait_s`` for one that has no room."""
        self._pool = pool
        self._replica_wait_s = replica_wait_s
        self._busy_wait_s = busy_wait_s
        self._under_way: dict[str, tuple[LlmReplica, llm_pb2.VerifyItem]] = {}  # by session
        self._closing = SessionCloses()

    async def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """The verdicts of the session's replica."""
        until_s = None if work.timeout_ms is None else asyncio.get_running_loop().time() + work.timeout_ms / 1e3
        async with contextlib.AsyncExitStack() as apart:
            async with _deadline(until_s):
                replica = await self._replica_for(work, apart)
            replica.session_lens[work.session_id] = work.base + len(work.new_token_ids)
            async with contextlib.aclosing(self._verdicts_in_time(replica, work, until_s)) as verdicts:
                async for verdict in verdicts:
                    if isinstance(verdict, Verdict):
                        await apart.aclose()  # it does no harm
                    yield verdict

    async def _verdicts_in_time(
        self, replica: LlmReplica, work: VerifyWork, until_s: float | None
    ) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """Asks again while there is no room. Only a request without any output is sent away for it."""
        is_new = work.session is not None and work.session.prompt_len == len(work.new_token_ids)
        backoff_s, busy_until_s = _MIN_BUSY_BACKOFF_S, time.monotonic() + self._busy_wait_s
        while True:
            has_begun = False
            try:
                async with contextlib.aclosing(self._verdicts(replica, work, until_s)) as verdicts:
                    async for verdict in verdicts:
                        has_begun = has_begun or isinstance(verdict, Verdict)
                        yield verdict
                return
            except ResourceExhaustedError as error:
                if has_begun:
                    # The session is gone, and the caller has tokens that this work knows nothing of.
                    raise StaleBaseError(0) from error
                if is_new and time.monotonic() + backoff_s > busy_until_s:
                    raise ResourceExhaustedError(str(error), round(error.retry_delay_ms * _spread())) from error
            async with _deadline(until_s):
                await asyncio.sleep(backoff_s * _spread())
            backoff_s = min(backoff_s * 2, _MAX_BUSY_BACKOFF_S)

    async def _verdicts(
        self, replica: LlmReplica, work: VerifyWork, until_s: float | None
    ) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """One attempt at a work."""
        item = works.verify_work_to_proto(work, 0)
        self._under_way[work.session_id] = replica, item
        try:
            async with contextlib.aclosing(replica.client.results(item)) as results:
                has_more = True
                while has_more:
                    # Not around the loop: what is between two verdicts is another task's.
                    async with _deadline(until_s):
                        found = _found_in(await anext(results), replica)
                    if isinstance(found, Verdict):
                        replica.session_lens[work.session_id] = found.base + len(found.token_ids)
                        has_more = found.has_more
                    yield found
        finally:
            self._under_way.pop(work.session_id, None)

    def finish_early(self, session_id: str) -> None:
        """Tells the replica, with the next message to it."""
        if session_id in self._under_way:
            replica, item = self._under_way[session_id]
            replica.client.finish_early(item)

    async def close(self, session_id: str) -> None:
        """Tells the replica to forget the session, in the background."""
        for replica in self._pool.forget(session_id):
            if replica.client.connected.is_set():
                request = llm_pb2.LlmServiceCloseSessionRequest(session_id=session_id)
                self._closing.start(replica.stub.CloseSession, request)

    async def finish(self) -> None:
        """Returns when all closing is done, or has taken too long."""
        await self._closing.finish()

    async def _replica_for(self, work: VerifyWork, apart: contextlib.AsyncExitStack) -> LlmReplica:
        """The session's replica; for a suspect when no other is under way there, which ``apart`` sees to."""
        while True:
            replica = await self._replica_of(work)
            if not work.is_suspect:
                return replica
            await apart.enter_async_context(replica.suspects)
            if replica.is_usable:
                return replica
            await apart.aclose()  # the one before it took the replica down

    async def _replica_of(self, work: VerifyWork) -> LlmReplica:
        if work.base == 0:
            # A replay, or the start: the one place that waits for replicas, so that the loop's attempts are not used up.
            return await self._pool.place(work.session_id, self._replica_wait_s)
        replica = self._pool.replica_of(work.session_id)
        if replica is None or not replica.is_usable:
            raise UnavailableError("the session's LLM replica is gone")
        return replica


def _found_in(result: llm_pb2.VerifyResult, replica: LlmReplica) -> Verdict | PromptProgress:
    """Raises the error that came in place of a verdict."""
    if result.HasField("error"):
        error = works.error_from_proto(result.error)
        if isinstance(error, UnavailableError) and not isinstance(error, WorkLostError):
            replica.mark_draining()
        if isinstance(error, InvalidRequestError) and error.violations[0].field != STRUCTURED_OUTPUT:
            # The client's request was checked before; what is wrong now is between router and LLM service. But what an output must look
            # like may turn out to be too much in the midst of it.
            raise InternalError(f"{replica.client.address} refused an item: {error}")
        raise error
    if result.HasField("progress"):
        return works.progress_from_proto(result.progress)
    return works.verdict_from_proto(result.verdict)


def _spread() -> float:
    """A factor for delays: sessions that find no room together should not all come back together."""
    return random.uniform(0.5, 1.5)


@contextlib.asynccontextmanager
async def _deadline(until_s: float | None) -> AsyncIterator[None]:
    """``until_s`` is on the event loop's clock."""
    try:
        async with asyncio.timeout_at(until_s):
            yield
    except TimeoutError:
        raise DeadlineExceededError("the request's deadline passed") from None
