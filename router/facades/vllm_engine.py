"""vLLM's engine API (``vllm.grpc.engine.VllmEngine``) over the router's servicer, so that stock gateways can route to a router.

Used where ``--vllm-engine-api`` asks for it; the messages are those of the package ``smg-grpc-proto``.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from smg_grpc_proto import vllm_engine_pb2 as vllm
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_grpc
from smg_grpc_proto.generated import common_pb2

from router.facades.field_names import renaming
from router.facades.tokenizer_bundle import zip_pieces
from router.facades.vllm_request import FIELD_NAMES, generate_requests
from router.merging import merged
from router.output_messages import FINISH_REASONS
from router.request_ids import begin_call
from specgrove.errors import InvalidRequestError
from specgrove.v1 import router_pb2

if TYPE_CHECKING:
    from router.admission import Admission
    from router.servicer import RouterServicer

register = vllm_grpc.add_VllmEngineServicer_to_server


class VllmEngineServicer(vllm_grpc.VllmEngineServicer):  # type: ignore[misc]
    """One per router. What it leaves out (embeddings, profiles, KV events, caches) gRPC answers with UNIMPLEMENTED."""

    def __init__(self, servicer: RouterServicer, admission: Admission, is_serving: Callable[[], bool]) -> None:
        self._servicer = servicer
        self._admission = admission
        self._is_serving = is_serving
        self._started_s = time.monotonic()
        self._last_received_s = time.time()
        self._aborts: dict[str, asyncio.Event] = {}

    async def Generate(  # noqa: N802
        self, request: vllm.GenerateRequest, context: Any
    ) -> AsyncGenerator[vllm.GenerateResponse, None]:
        """The outputs of one prompt: in pieces where the request streams, and each whole at its end."""
        self._last_received_s = time.time()
        request_id = request.request_id or uuid.uuid4().hex
        if request.request_id:
            begin_call(request_id)
        if request_id in self._aborts:
            raise InvalidRequestError.of("request_id", f"{request_id} is being served already")
        with renaming(FIELD_NAMES):
            asked = generate_requests(request)
        self._servicer.check_num_outputs(len(asked), "sampling_params.n")
        self._aborts[request_id] = aborted = asyncio.Event()
        try:
            outputs = [
                self._output(one, index, context, is_streaming=request.stream, aborted=aborted)
                for index, one in enumerate(asked)
            ]
            async with contextlib.aclosing(merged(outputs)) as responses:
                async for response in responses:
                    yield response
        finally:
            del self._aborts[request_id]

    async def Abort(self, request: vllm.AbortRequest, context: Any) -> vllm.AbortResponse:  # noqa: N802
        """Ends requests; their outputs end with ``abort``. Unknown ones have ended already."""
        for request_id in request.request_ids:
            if (aborted := self._aborts.get(request_id)) is not None:
                aborted.set()
        return vllm.AbortResponse()

    async def HealthCheck(  # noqa: N802
        self, request: vllm.HealthCheckRequest, context: Any
    ) -> vllm.HealthCheckResponse:
        """As the health service says."""
        is_serving = self._is_serving()
        return vllm.HealthCheckResponse(healthy=is_serving, message="serving" if is_serving else "no LLM replica")

    async def GetModelInfo(  # noqa: N802
        self, request: vllm.GetModelInfoRequest, context: Any
    ) -> vllm.GetModelInfoResponse:
        """The model's facts."""
        info = await self._servicer.GetModelInfo(router_pb2.GetModelInfoRequest(), context)
        return vllm.GetModelInfoResponse(
            model_path=info.model,
            served_model_name=info.model,
            tokenizer_path=info.model,
            is_generation=True,
            max_context_length=info.max_model_len,
            max_req_input_len=info.max_model_len,
            vocab_size=info.vocab_size,
            architectures=[info.architecture],
            eos_token_ids=info.eos_token_ids,
        )

    async def GetServerInfo(  # noqa: N802
        self, request: vllm.GetServerInfoRequest, context: Any
    ) -> vllm.GetServerInfoResponse:
        """What the router does now. To a gateway it is one engine, however many replicas it has."""
        return vllm.GetServerInfoResponse(
            active_requests=self._admission.num_active,
            last_receive_timestamp=self._last_received_s,
            uptime_seconds=time.monotonic() - self._started_s,
            server_type="vllm-grpc",
            data_parallel_size=1,
        )

    async def GetLoads(self, request: vllm.GetLoadsRequest, context: Any) -> vllm.GetLoadsResponse:  # noqa: N802
        """Requests that are served and that wait."""
        num_running, num_waiting = self._admission.num_active, self._admission.num_queued
        load = vllm.SchedulerLoad(
            num_running_reqs=num_running,
            num_waiting_reqs=num_waiting,
            num_total_reqs=num_running + num_waiting,
            max_running_requests=self._admission.max_num_requests,
        )
        now = datetime.datetime.now(datetime.UTC).isoformat()
        return vllm.GetLoadsResponse(timestamp=now, version=self._servicer.version, dp_rank_count=1, loads=[load])

    async def GetTokenizer(  # noqa: N802
        self, request: common_pb2.GetTokenizerRequest, context: Any
    ) -> AsyncGenerator[common_pb2.GetTokenizerChunk, None]:
        """The tokenizer's files, zipped, in pieces."""
        files = self._servicer.served_model().tokenizer_files
        pieces = await asyncio.to_thread(lambda: list(zip_pieces(files)))
        for content, digest in pieces:
            yield common_pb2.GetTokenizerChunk(data=content, sha256=digest)

    async def _output(
        self,
        request: router_pb2.GenerateRequest,
        index: int,
        context: Any,
        *,
        is_streaming: bool,
        aborted: asyncio.Event,
    ) -> AsyncGenerator[vllm.GenerateResponse, None]:
        prompt_tokens: list[router_pb2.PromptToken] = []
        tokens: list[router_pb2.GeneratedToken] = []
        complete = vllm.GenerateComplete(index=index, finish_reason="abort")
        with renaming(FIELD_NAMES):
            async with contextlib.aclosing(self._servicer.Generate(request, context)) as pieces:
                async for piece in _until(aborted, pieces):
                    prompt_tokens += piece.prompt_tokens
                    if is_streaming and piece.tokens:
                        chunk = _chunk_of(index, piece, num_output_tokens=len(tokens) + len(piece.tokens))
                        # Of a prompt that came as tokens it is known at once; of a text when the output ends.
                        chunk.prompt_tokens = chunk.prompt_tokens or len(request.token_ids.token_ids)
                        if not tokens:
                            _set_prompt_log_probs(chunk, prompt_tokens)
                        yield vllm.GenerateResponse(chunk=chunk)
                    tokens += piece.tokens
                    if piece.finish_reason:
                        _set_end(complete, piece)
        complete.output_ids.extend(token.token_id for token in tokens)
        complete.completion_tokens = len(tokens)
        _set_log_probs(complete, tokens)
        _set_prompt_log_probs(complete, prompt_tokens)
        yield vllm.GenerateResponse(complete=complete)


async def _until(
    ended: asyncio.Event, pieces: AsyncGenerator[router_pb2.GenerateResponse, None]
) -> AsyncGenerator[router_pb2.GenerateResponse, None]:
    """The pieces that come before the event."""
    ending = asyncio.ensure_future(ended.wait())
    try:
        while True:
            getting = asyncio.ensure_future(anext(pieces, None))
            try:
                await asyncio.wait({getting, ending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not getting.done():
                    getting.cancel()
                    await asyncio.gather(getting, return_exceptions=True)
            if getting.cancelled() or (piece := getting.result()) is None:
                return
            yield piece
    finally:
        ending.cancel()


def _chunk_of(index: int, piece: router_pb2.GenerateResponse, *, num_output_tokens: int) -> vllm.GenerateStreamChunk:
    chunk = vllm.GenerateStreamChunk(
        index=index,
        token_ids=[token.token_id for token in piece.tokens],
        completion_tokens=num_output_tokens,
        prompt_tokens=piece.usage.num_prompt_tokens,
    )
    _set_log_probs(chunk, piece.tokens)
    return chunk


def _set_end(complete: vllm.GenerateComplete, piece: router_pb2.GenerateResponse) -> None:
    usage = piece.usage
    complete.finish_reason = FINISH_REASONS[piece.finish_reason]
    complete.prompt_tokens = usage.num_prompt_tokens
    complete.spec_draft_tokens = usage.num_drafted_nodes
    complete.spec_accepted_tokens = sum(depth * count for depth, count in enumerate(usage.acceptance_histogram))
    match piece.stop_reason.WhichOneof("reason"):
        case "text":
            complete.matched_stop_str = piece.stop_reason.text
        case "token_id":
            complete.matched_token_id = piece.stop_reason.token_id


def _set_log_probs(
    message: vllm.GenerateStreamChunk | vllm.GenerateComplete, tokens: Sequence[router_pb2.GeneratedToken]
) -> None:
    for token in tokens:
        if not token.HasField("log_probs"):
            return
        log_probs = message.output_logprobs
        log_probs.token_ids.append(token.token_id)
        log_probs.token_logprobs.append(token.log_probs.log_prob)
        top = token.log_probs.top
        log_probs.top_logprobs.add(token_ids=[t.token_id for t in top], values=[t.log_prob for t in top])


def _set_prompt_log_probs(
    message: vllm.GenerateStreamChunk | vllm.GenerateComplete, tokens: Sequence[router_pb2.PromptToken]
) -> None:
    """The first token's is there without a value."""
    for token in tokens:
        log_probs = message.input_logprobs
        log_probs.token_ids.append(token.token_id)
        value = log_probs.token_logprobs.add()
        if token.HasField("log_probs"):
            value.value = token.log_probs.log_prob
        top = token.log_probs.top
        log_probs.top_logprobs.add(token_ids=[t.token_id for t in top], values=[t.log_prob for t in top])
