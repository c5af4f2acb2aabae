"""The SSM service's gRPC face: thin, every decision is the pool's."""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from specgrove.errors import InvalidRequestError
from specgrove.loop.works import Draft, DraftWork
from specgrove.machine.compute_place import ComputePlace
from specgrove.runtime.measuring import PassMeasurement, measured
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.served_stream import StreamItem
from specgrove.serving.status import abort
from specgrove.serving.work_streams import WorkStreams
from specgrove.telemetry.tracing import NO_TRACING, Attributes, SessionSpans, Tracing
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc, token_tree_pb2
from specgrove.wire import works
from specgrove.wire.compute_place import place_to_proto
from specgrove.wire.drafts import draft_to_proto, draft_work_from_proto
from ssm_service.load import ServiceLoad
from ssm_service.pool import DrafterPool

_WARMUP_NUMS_TOKENS = [1, 2, 4, 8, 16, 32, 64]
_WARMUP_BUDGET_MS = 500.0  # of each SSM
_UNKNOWN_PLACE = ComputePlace()
_DRAFT_AHEAD = {
    "auto": ssm_pb2.DRAFT_AHEAD_AUTO,
    "on": ssm_pb2.DRAFT_AHEAD_ON,
    "off": ssm_pb2.DRAFT_AHEAD_OFF,
}

Context = grpc.aio.ServicerContext[Any, Any]
Item = StreamItem[ssm_pb2.DraftItem, Draft, ssm_pb2.DraftResult]
Streams = WorkStreams[ssm_pb2.DraftItem, Draft, ssm_pb2.DraftResult, ssm_pb2.DraftResponse]


class SsmServicer(ssm_pb2_grpc.SsmServiceServicer):
    """``SsmService`` over one pool."""

    def __init__(
        self,
        infos: Sequence[ssm_pb2.SsmInfo],
        pool: DrafterPool,
        loop: StepLoop[DraftWork, Draft],
        tracing: Tracing = NO_TRACING,
        *,
        draft_ahead: str = "auto",
        place: ComputePlace = _UNKNOWN_PLACE,
    ) -> None:
        """``draft_ahead`` is one of ``DRAFT_AHEAD``; ``place`` is where the SSMs compute."""
        self._infos = infos
        self._pool = pool
        self._loop = loop
        self._draft_ahead = _DRAFT_AHEAD[draft_ahead]
        self._place = place
        self._spans = SessionSpans(tracing, "draft")
        self.load = ServiceLoad(pool, loop)
        self.streams: Streams = WorkStreams(
            self._begin, self._result_of, ssm_pb2.DraftResult, ssm_pb2.DraftResponse, forget=self._forget
        )
        self._pass_times: dict[str, list[tuple[int, float]]] | None = None  # once they are complete
        self._warmup_lock = asyncio.Lock()

    def _begin(self, item: Item) -> None:
        work = draft_work_from_proto(item.message)
        self._spans.begin(work.session_id, work.trace_context)
        self._loop.submit(work, item.stream, item, request_id=work.session_id)

    def _result_of(self, item: ssm_pb2.DraftItem, draft: Draft) -> ssm_pb2.DraftResult:
        if (span := self._spans.of(item.session_id)).is_recording:
            span.event("specgrove.draft", _event_of(item, draft))
        return ssm_pb2.DraftResult(session_id=item.session_id, item_id=item.item_id, draft=draft_to_proto(draft))

    def _forget(self, session_id: str) -> concurrent.futures.Future[None]:
        self._spans.end(session_id)
        return self._loop.close_session(session_id)

    def Draft(  # noqa: N802
        self, request_iterator: AsyncIterator[ssm_pb2.DraftRequest], context: Context
    ) -> AsyncIterator[ssm_pb2.DraftResponse]:
        """See ssm.proto."""
        return self.streams.serve(request_iterator, context)

    async def GetModelInfo(  # noqa: N802
        self, request: ssm_pb2.SsmServiceGetModelInfoRequest, context: Context
    ) -> ssm_pb2.SsmServiceGetModelInfoResponse:
        """See ssm.proto."""
        return ssm_pb2.SsmServiceGetModelInfoResponse(
            ssms=self._infos,
            protocol_version=works.PROTOCOL_VERSION,
            draft_ahead=self._draft_ahead,
            place=place_to_proto(self._place),
        )

    async def GetVocabulary(  # noqa: N802
        self, request: ssm_pb2.GetVocabularyRequest, context: Context
    ) -> ssm_pb2.GetVocabularyResponse:
        """See ssm.proto."""
        try:
            return ssm_pb2.GetVocabularyResponse(token_checksums=self._pool.ssms.token_checksums(request.ssm))
        except InvalidRequestError as error:
            await abort(context, error)
            raise

    async def Warmup(  # noqa: N802
        self, request: ssm_pb2.SsmServiceWarmupRequest, context: Context
    ) -> ssm_pb2.SsmServiceWarmupResponse:
        """See ssm.proto."""
        async with self._warmup_lock:
            found = self._pass_times
            if found is None:
                found, is_complete = {}, True
                for name in self._pool.ssms.neural:
                    measurement = PassMeasurement(_WARMUP_NUMS_TOKENS, _WARMUP_BUDGET_MS)
                    run = functools.partial(self._time_level, name)
                    is_complete &= await measured(measurement, run, lambda: self._loop.num_pending_items == 0)
                    found[name] = measurement.times
                self._pass_times = found if is_complete else None
        response = ssm_pb2.SsmServiceWarmupResponse()
        for name, times in found.items():
            pass_times = [token_tree_pb2.PassTime(num_rows=num, pass_ms=pass_ms) for num, pass_ms in times]
            response.ssms.add(name=name, pass_times=pass_times)
        return response

    async def _time_level(self, name: str, num_tokens: int) -> float | None:
        return await asyncio.wrap_future(self._loop.call(lambda: self._pool.ssms.time_level(name, num_tokens)))

    async def GetLoad(  # noqa: N802
        self, request: ssm_pb2.SsmServiceGetLoadRequest, context: Context
    ) -> ssm_pb2.SsmServiceGetLoadResponse:
        """See ssm.proto."""
        return ssm_pb2.SsmServiceGetLoadResponse(load=self.load.to_proto())

    async def CloseSession(  # noqa: N802
        self, request: ssm_pb2.SsmServiceCloseSessionRequest, context: Context
    ) -> ssm_pb2.SsmServiceCloseSessionResponse:
        """See ssm.proto."""
        self.streams.close_session(request.session_id)
        await asyncio.wrap_future(self._forget(request.session_id))
        return ssm_pb2.SsmServiceCloseSessionResponse()


def _event_of(item: ssm_pb2.DraftItem, draft: Draft) -> Attributes:
    return {
        "specgrove.draft.new_tokens": len(item.new_token_ids),
        "specgrove.draft.ssms": [drafted.ssm for drafted in draft.trees],
        "specgrove.draft.nodes": [drafted.tree.num_nodes - 1 for drafted in draft.trees],
        "specgrove.draft.ms": draft.draft_ms,
    }
