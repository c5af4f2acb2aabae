"""One LLM service behind the router: its connection, what it says of itself, and the sessions placed there.

Owned by ``LlmPool``; used by ``RemoteVerifier``. Invariant: one that the pool doesn't accept is never usable.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import grpc

from router.known_prefixes import KnownPrefixes
from router.service_replica import ServiceReplica
from specgrove.addresses import ReplicaAddress
from specgrove.errors import InternalError, UnavailableError
from specgrove.loop.row_times import RowTimes
from specgrove.machine.compute_place import ComputePlace
from specgrove.serving.replica_channel import ServicesTls, closed_is_away
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from specgrove.wire.compute_place import place_from_proto

if TYPE_CHECKING:
    from router.llm_replicas import LlmPool
    from specgrove.v1.llm_pb2_grpc import LlmServiceAsyncStub

logger = logging.getLogger(__name__)

_INFO_TIMEOUT_S = 10.0
_WARMUP_TIMEOUT_S = 60.0
# Where requests, or a failure, kept a replica from measuring itself it is asked again after these times; then real steps have told enough.
_WARMUP_WAITS_S = (0.0, 5.0, 15.0, 60.0)
_PROBE_TIMEOUT_S = 1.5


class LlmReplica(ServiceReplica[llm_pb2.VerifyItem, llm_pb2.VerifyResult]):
    """One LLM service. ``session_lens`` are the committed lengths of the sessions placed here."""

    def __init__(self, address: ReplicaAddress, pool: LlmPool, tls: ServicesTls | None = None) -> None:
        """Without ``tls`` it is asked in clear."""
        super().__init__(
            address,
            llm_pb2.DESCRIPTOR.services_by_name["LlmService"],
            lambda channel: llm_pb2_grpc.LlmServiceStub(channel).Verify(),
            llm_pb2.VerifyRequest,
            tls,
            pool.refresh,
        )
        self.session_lens: dict[str, int] = {}
        self.prefixes = KnownPrefixes()
        self.is_answering = True
        self.refusal: str | None = None
        """Why the pool didn't accept it, when it was last asked what it serves."""
        self.suspects = asyncio.Lock()
        """Held by the one session here that may have been what another process died of."""
        self.place = ComputePlace()
        """What it computes on, as it said when it was last asked."""
        self.row_times = RowTimes()
        self.stub: LlmServiceAsyncStub = llm_pb2_grpc.LlmServiceStub(self.client.channel)
        self._measuring: asyncio.Task[None] | None = None
        self._pool = pool

    @property
    def num_sessions(self) -> int:
        """See ``ServiceReplica``."""
        return len(self.session_lens)

    @property
    def num_session_tokens(self) -> int:
        """Committed tokens of all sessions here: what keeps the replica busy."""
        return sum(self.session_lens.values())

    def mark_draining(self) -> None:
        """It said that it shuts down: no more work for it until it has come back."""
        self.is_draining = True
        self._pool.refresh()

    async def measured(self) -> None:
        """Returns when the replica has measured itself, if it does now."""
        if self._measuring is not None:
            await asyncio.wait({self._measuring})

    async def close(self) -> None:
        """Closes the connection."""
        if self._measuring is not None:
            self._measuring.cancel()
        await super().close()

    def _on_change(self) -> None:
        if self._measuring is not None:
            self._measuring.cancel()
            self._measuring = None
        if self.client.connected.is_set():
            self._measuring = asyncio.create_task(self._measure())
        else:
            self.health.stop()
            self.prefixes.clear()
        self._pool.refresh()

    async def _measure(self) -> None:
        """Asks for the times of passes, a few times where it must: requests come first."""
        for wait_s in _WARMUP_WAITS_S:
            await asyncio.sleep(wait_s)
            try:
                response = await self.stub.Warmup(llm_pb2.LlmServiceWarmupRequest(), timeout=_WARMUP_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                logger.warning("%s: no times of passes: %s", self.client.address, error_from_rpc(error))
                continue
            self.row_times.learn_measured([(time.num_rows, time.pass_ms) for time in response.pass_times])
            found = {time.num_rows: round(time.pass_ms, 1) for time in response.pass_times}
            if found:
                logger.info("%s: times of passes in ms by rows: %s", self.client.address, found)
            if response.is_complete:
                return

    async def probe(self) -> None:
        """Whether it gives a sign of life. It does so also while it computes; one that is stopped or cut off does not."""
        if not self.client.connected.is_set():
            return
        try:
            with closed_is_away():
                await self.stub.GetLoad(llm_pb2.LlmServiceGetLoadRequest(), timeout=_PROBE_TIMEOUT_S)
        except UnavailableError:
            return  # it was dropped meanwhile
        except grpc.aio.AioRpcError:
            if self.is_answering:
                logger.warning("%s: does not answer; new requests go elsewhere", self.client.address)
            self.is_answering = False
        else:
            self.is_answering = True

    async def _check(self, channel: grpc.aio.Channel) -> None:
        self.stub = llm_pb2_grpc.LlmServiceStub(channel)
        try:
            info = await self.stub.GetModelInfo(llm_pb2.LlmServiceGetModelInfoRequest(), timeout=_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        try:
            await self._pool.accept(info, self.stub)
        except InternalError as error:
            self.refusal = str(error)
            raise
        self.refusal = None
        self.prefixes.note_size(info.num_slots)
        self.place = place_from_proto(info.place)
        await self.health.start(channel)
        self.is_draining, self.is_answering = False, True
