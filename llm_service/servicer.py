"""The LLM service's gRPC face: thin, every decision is the engine's. Runs on the event loop; the engine has its own thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from llm_service.load import ServiceLoad
from llm_service.verifier import VerifierEngine
from specgrove.config import MAX_NUM_ROW_TOP_K
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.machine.compute_place import ComputePlace
from specgrove.models.decoder.ends import Ends
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.runtime.measuring import PassMeasurement, measured
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.served_stream import StreamItem
from specgrove.serving.work_streams import WorkStreams
from specgrove.telemetry.tracing import NO_TRACING, Attributes, SessionSpans, Tracing
from specgrove.tokenizer import TOKENIZER_FILE_NAMES, Tokenizer
from specgrove.v1 import llm_pb2, llm_pb2_grpc, token_tree_pb2
from specgrove.wire import works
from specgrove.wire.compute_place import place_to_proto

_FILE_PIECE_BYTES = 1 << 20
# The most rows that one tile has on AVX2 are among them: one more costs as much as several.
_WARMUP_NUMS_TOKENS = [1, 2, 4, 6, 8, 16, 32, 64, 128]

Context = grpc.aio.ServicerContext[Any, Any]
Found = Verdict | PromptProgress
Item = StreamItem[llm_pb2.VerifyItem, Found, llm_pb2.VerifyResult]
Streams = WorkStreams[llm_pb2.VerifyItem, Found, llm_pb2.VerifyResult, llm_pb2.VerifyResponse]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the service says about its model."""

    name: str
    folder: Path
    dtype: str
    max_model_len: int
    max_num_tree_nodes: int
    ends: Ends
    spec: DecoderSpec
    tokenizer: Tokenizer
    numerics: tuple[str, ...] = ()
    recommended_sampling: Mapping[str, Any] = field(default_factory=dict)
    """As ``recommended_sampling_of`` gives it."""
    place: ComputePlace = field(default_factory=ComputePlace)
    """What it computes on; of several ranks the first one's."""


class LlmServicer(llm_pb2_grpc.LlmServiceServicer):
    """``LlmService`` over one engine."""

    def __init__(
        self,
        model: ServedModel,
        engine: VerifierEngine,
        loop: StepLoop[VerifyWork, Found],
        num_slots: int,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self._model = model
        self._engine = engine
        self._loop = loop
        self._spans = SessionSpans(tracing, "verify")
        self.load = ServiceLoad(engine, loop, num_slots)
        self.streams: Streams = WorkStreams(
            self._begin,
            self._result_of,
            llm_pb2.VerifyResult,
            llm_pb2.VerifyResponse,
            forget=self._forget,
            finish_early=self._finish_early,
            give_up=self._finish_early,
        )
        self._pass_times: list[tuple[int, float]] | None = None  # once they are complete
        self._warmup_lock = asyncio.Lock()

    def Verify(  # noqa: N802
        self, request_iterator: AsyncIterator[llm_pb2.VerifyRequest], context: Context
    ) -> AsyncIterator[llm_pb2.VerifyResponse]:
        """See llm.proto."""
        return self.streams.serve(request_iterator, context)

    async def drain(self) -> None:
        """Gives every item its next verdict as the last one, and ends the streams."""
        self._loop.finish_early()
        await self.streams.drain()

    def _finish_early(self, items: Sequence[llm_pb2.VerifyItem]) -> None:
        # A session has one item under way.
        if session_ids := {item.session_id for item in items}:
            self._loop.finish_early(lambda work: work.session_id in session_ids)

    def _forget(self, session_id: str) -> concurrent.futures.Future[None]:
        self._spans.end(session_id)
        return self._loop.close_session(session_id)

    def _begin(self, item: Item) -> None:
        work = works.verify_work_from_proto(item.message)
        if work.session is not None:
            self._spans.begin(work.session_id, work.session.trace_context)
        self._loop.submit(work, item.stream, item, request_id=work.session_id)

    def _result_of(self, item: llm_pb2.VerifyItem, found: Found) -> llm_pb2.VerifyResult:
        if isinstance(found, PromptProgress):
            return llm_pb2.VerifyResult(
                session_id=item.session_id, item_id=item.item_id, progress=works.progress_to_proto(found)
            )
        if (span := self._spans.of(item.session_id)).is_recording:
            span.event("specgrove.verify", _event_of(item, found))
        return llm_pb2.VerifyResult(
            session_id=item.session_id, item_id=item.item_id, verdict=works.verdict_to_proto(found)
        )

    async def GetModelInfo(  # noqa: N802
        self, request: llm_pb2.LlmServiceGetModelInfoRequest, context: Context
    ) -> llm_pb2.LlmServiceGetModelInfoResponse:
        """See llm.proto."""
        model = self._model
        return llm_pb2.LlmServiceGetModelInfoResponse(
            model=model.name,
            architecture=model.spec.architecture,
            vocab_size=model.spec.vocab_size,
            max_model_len=model.max_model_len,
            dtype=model.dtype,
            eos_token_ids=model.ends.text,
            chat_end_token_ids=model.ends.chat,
            vocab_sha256=model.tokenizer.vocab_sha256,
            num_slots=self.load.num_slots,
            num_parameters=model.spec.num_parameters,
            max_num_tree_nodes=model.max_num_tree_nodes,
            numerics=model.numerics,
            protocol_version=works.PROTOCOL_VERSION,
            recommended_sampling=token_tree_pb2.SamplingParams(**model.recommended_sampling),
            hidden_layers=self._engine.hidden_layers,
            hidden_size=model.spec.hidden_size,
            num_layers=model.spec.num_layers,
            max_num_row_top_k=min(MAX_NUM_ROW_TOP_K, model.spec.vocab_size),
            place=place_to_proto(model.place),
        )

    async def GetTokenizer(  # noqa: N802
        self, request: llm_pb2.GetTokenizerRequest, context: Context
    ) -> AsyncIterator[llm_pb2.GetTokenizerResponse]:
        """See llm.proto."""
        for file_name in TOKENIZER_FILE_NAMES:
            path = self._model.folder / file_name
            if not path.exists():
                continue
            content = await asyncio.to_thread(path.read_bytes)
            for start in range(0, len(content), _FILE_PIECE_BYTES):
                piece = content[start : start + _FILE_PIECE_BYTES]
                yield llm_pb2.GetTokenizerResponse(file_name=file_name, content=piece)

    async def Warmup(  # noqa: N802
        self, request: llm_pb2.LlmServiceWarmupRequest, context: Context
    ) -> llm_pb2.LlmServiceWarmupResponse:
        """See llm.proto."""
        async with self._warmup_lock:
            found = self._pass_times
            if found is None:
                measurement = PassMeasurement(_WARMUP_NUMS_TOKENS)
                # An item that arrives meanwhile waits for one pass at most.
                is_complete = await measured(measurement, self._time_step, lambda: self._loop.num_pending_items == 0)
                found = measurement.times
                await asyncio.wrap_future(self._loop.call(lambda: self._engine.learn_pass_times(measurement.times)))
                self._pass_times = found if is_complete else None
        times = [token_tree_pb2.PassTime(num_rows=num, pass_ms=pass_ms) for num, pass_ms in found]
        return llm_pb2.LlmServiceWarmupResponse(pass_times=times, is_complete=self._pass_times is not None)

    async def _time_step(self, num_tokens: int) -> float | None:
        return await asyncio.wrap_future(self._loop.call(lambda: self._engine.time_pass(num_tokens)))

    async def GetLoad(  # noqa: N802
        self, request: llm_pb2.LlmServiceGetLoadRequest, context: Context
    ) -> llm_pb2.LlmServiceGetLoadResponse:
        """See llm.proto."""
        return llm_pb2.LlmServiceGetLoadResponse(load=self.load.to_proto())

    async def CloseSession(  # noqa: N802
        self, request: llm_pb2.LlmServiceCloseSessionRequest, context: Context
    ) -> llm_pb2.LlmServiceCloseSessionResponse:
        """See llm.proto."""
        self.streams.close_session(request.session_id)
        await asyncio.wrap_future(self._forget(request.session_id))
        return llm_pb2.LlmServiceCloseSessionResponse()


def _event_of(item: llm_pb2.VerifyItem, verdict: Verdict) -> Attributes:
    """Rows of all sessions are those of the last pass; the time is that of all passes."""
    return {
        "specgrove.verify.tree_nodes": len(item.tree.token_ids),
        "specgrove.verify.tokens": len(verdict.token_ids),
        "specgrove.verify.accepted_tokens": len(verdict.accepted_nodes),
        "specgrove.verify.steps": verdict.num_steps,
        "specgrove.verify.pass_ms": verdict.pass_ms,
        "specgrove.verify.pass_rows": verdict.pass_num_rows,
    }
