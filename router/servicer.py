"""The public API: thin, from a request's message to the loop and from its steps to messages. Raises our errors only.

Invariant: whichever way a call ends, its permit is given back and its sessions are closed on both sides.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from typing import Any

from router import request_trace
from router.admission import Admission
from router.config import TreeConfig
from router.cutoff import Cutoff
from router.key_limits import KeyLimits
from router.llm_replicas import LlmPool
from router.measurements import Measurements
from router.output_messages import OutputMessages
from router.remote_verifier import RemoteVerifier
from router.replica_stats import ReplicaStats
from router.request_counts import RequestCounts
from router.request_ids import ids_of
from router.request_log import RequestLog
from router.served_model import ServedModel
from router.speculation_counts import SpeculationCounts
from router.ssm_replicas import SsmPool
from router.stats import RouterStats
from router.structure_check import StructureCheck
from router.text_work import TextWork
from router.tree_policy import is_adaptive, policy_for
from router.validation import CheckedRequest, check_fields, checked_detokenize, checked_request, checked_tokenize
from specgrove.config import MAX_NUM_TREE_NODES
from specgrove.errors import UnavailableError
from specgrove.features import FEATURES
from specgrove.loop.output import Step
from specgrove.loop.speculation import Session
from specgrove.loop.told import HiddenRoom
from specgrove.loop.verifier_knowledge import DrafterWishes
from specgrove.ranges import MIN_TEMPERATURE
from specgrove.serving.api_keys import ASKING_KEY
from specgrove.telemetry.logs import mark_lines
from specgrove.telemetry.tracing import NO_TRACING, Span, Tracing
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2, router_pb2_grpc
from specgrove.version import version
from specgrove.wire import works

_MAX_NUM_TEXT_CALLS = 8
_MAX_NUM_QUEUED_TEXT_CALLS = 64
# About what a token stands for: an estimate of the work.
_BYTES_PER_TOKEN = 4


class RouterServicer(router_pb2_grpc.RouterServiceServicer):
    """One per router."""

    def __init__(
        self,
        llms: LlmPool,
        ssms: SsmPool,
        verifier: RemoteVerifier,
        admission: Admission,
        trees: TreeConfig,
        *,
        max_request_s: float | None = None,
        tracing: Tracing = NO_TRACING,
        renders_apart: bool = False,
    ) -> None:
        """``max_request_s`` bounds the time from a request's permit to its end, whatever its client's deadline is.

        ``renders_apart``: chat templates run in a process of their own, for short conversations, too.
        """
        self._llms = llms
        self._ssms = ssms
        self._verifier = verifier
        self._admission = admission
        self._trees = trees
        self._max_request_s = max_request_s
        self._tracing = tracing
        self._text_work = TextWork(renders_apart=renders_apart)
        self._cutoff = Cutoff()
        self._structures = StructureCheck(self._text_work)
        # Calls that turn texts into tokens or back, and nothing else.
        self._text_admission = Admission(_MAX_NUM_TEXT_CALLS, _MAX_NUM_QUEUED_TEXT_CALLS)
        self._measurements = Measurements(lambda session_id: llms.load_of(session_id, admission.num_active))
        self.calibration = self._measurements.calibration
        self.pauses = self._measurements.pauses
        self.hidden_room = HiddenRoom()
        self.key_limits = KeyLimits()
        self.request_counts = RequestCounts()
        self.speculation_counts = SpeculationCounts()
        self.replica_stats = ReplicaStats(llms, ssms)
        self._stats = RouterStats(
            admission,
            self.request_counts,
            self.speculation_counts,
            self.replica_stats,
            self.calibration,
            self.pauses,
        )
        self.version = version()

    async def Generate(  # noqa: N802
        self, request: router_pb2.GenerateRequest, context: Any
    ) -> AsyncGenerator[router_pb2.GenerateResponse, None]:
        """Streams one output."""
        arrived_s = time.monotonic()
        with self.request_counts.counting(arrived_s) as counted:
            model = self.served_model()
            with request_trace.start_span(self._tracing, request, model.name, request_trace.parent_of(context)) as span:
                client_deadline_s = _deadline_of(context, arrived_s)
                ids = ids_of(context)
                session_id = ids.new_session_id()
                mark_lines(session_id)
                await self._text_work.turn(request.ByteSize())
                check_fields(request, model, self._ssms.all_ssms)
                if span.is_recording:
                    span.set(request_trace.parameters(request, ids.of_client))
                num_tokens = _num_tokens_about(request)
                async with (
                    self.key_limits.using(ASKING_KEY.get(), num_tokens) as key_use,
                    self._admission.permit(_connection_of(context), num_tokens),
                ):
                    counted.let_in()
                    with self._cutoff.bounding():
                        checked = await checked_request(
                            request,
                            model,
                            self._text_work,
                            self._structures,
                            session_id=session_id,
                            deadline_s=self._deadline_s(client_deadline_s),
                            trace_context=span.context,
                        )
                    num_prompt_tokens = len(checked.request.prompt_token_ids)
                    counted.add_prompt(num_prompt_tokens)
                    key_use.read_prompt(num_prompt_tokens)
                    output = OutputMessages(checked, model.tokenizer, arrived_s)
                    with RequestLog(session_id, num_prompt_tokens, arrived_s, ids) as log:
                        if (only := await output.of_resumed()) is not None:
                            log.add(only)
                            counted.add(only)
                            yield only
                            return
                        async with self._session(checked, model) as session:
                            while not output.has_ended:
                                with self._cutoff.bounding():
                                    step = await anext(session)
                                is_of_prompt = step.num_prompt_tokens_read is not None
                                for response in self._responses_to(step, output, session_id, model, span):
                                    log.add(response)
                                    counted.add(response)
                                    key_use.add_output(len(response.tokens))
                                    yield response
                                    if is_of_prompt:  # there may be many, and who takes them needn't wait for anything
                                        await asyncio.sleep(0)

    def check_num_outputs(self, num_outputs: int, field: str) -> None:
        """For calls of ``Generate`` that one client asks for together.

        Raises ``InvalidRequestError`` of ``field`` where its key may never have so many at once.
        """
        self.key_limits.check_num_outputs(ASKING_KEY.get(), num_outputs, field)

    async def GetModelInfo(  # noqa: N802
        self, request: router_pb2.GetModelInfoRequest, context: Any
    ) -> router_pb2.GetModelInfoResponse:
        """The model and the SSMs."""
        model = self.served_model()
        return router_pb2.GetModelInfoResponse(
            model=model.name,
            architecture=model.architecture,
            vocab_size=model.vocab_size,
            max_model_len=model.max_model_len,
            dtype=model.dtype,
            eos_token_ids=model.eos_token_ids,
            ssms=self._ssms.ssms,
            version=self.version,
            protocol_version=works.PROTOCOL_VERSION,
            features=FEATURES,
            recommended_sampling=model.recommended_sampling,
        )

    async def Tokenize(  # noqa: N802
        self, request: router_pb2.TokenizeRequest, context: Any
    ) -> router_pb2.TokenizeResponse:
        """Token ids of text or chat."""
        async with self.key_limits.using(ASKING_KEY.get()), self._text_admission.permit():
            token_ids = await checked_tokenize(request, self.served_model(), self._text_work)
        return router_pb2.TokenizeResponse(token_ids=token_ids)

    async def Detokenize(  # noqa: N802
        self, request: router_pb2.DetokenizeRequest, context: Any
    ) -> router_pb2.DetokenizeResponse:
        """Text of token ids."""
        model = self.served_model()
        token_ids = checked_detokenize(request, model)
        decode = functools.partial(Tokenizer.decode, ids=token_ids, keep_special_tokens=request.keep_special_tokens)
        async with self.key_limits.using(ASKING_KEY.get()), self._text_admission.permit():
            text = await self._text_work.run(model.tokenizer, len(token_ids) * _BYTES_PER_TOKEN, decode)
        return router_pb2.DetokenizeResponse(text=text)

    async def GetStats(  # noqa: N802
        self, request: router_pb2.GetStatsRequest, context: Any
    ) -> router_pb2.GetStatsResponse:
        """Counters, and what everybody is busy with."""
        model = self._llms.model
        return await self._stats.answer("" if model is None else model.name, self.version)

    async def prepare(self) -> None:
        """What the first request would wait for otherwise. Once the model is known."""
        tokenizer = self.served_model().tokenizer
        if tokenizer.has_chat_template:
            await self._text_work.prepare(tokenizer)

    def cut_off(self) -> None:
        """The time to drain is over: requests under way fail, and those that wait for their turn."""
        self._cutoff.end()
        self._admission.close()

    def close(self) -> None:
        """After the last call."""
        self._text_work.close()

    def _count_step(self, step: Step, session_id: str) -> None:
        usual_ms = None
        if step.num_drafted_nodes > 0:
            load = self._measurements.load_of(session_id)
            usual_ms = self._measurements.usual_ms(load) if load.row_times.is_known else None
        self.speculation_counts.add(step, usual_ms)

    def _deadline_s(self, client_deadline_s: float | None) -> float | None:
        """When a request must end that has its permit now."""
        if self._max_request_s is None:
            return client_deadline_s
        latest_s = time.monotonic() + self._max_request_s
        return latest_s if client_deadline_s is None else min(latest_s, client_deadline_s)

    def served_model(self) -> ServedModel:
        """What the LLM services serve. Raises ``UnavailableError`` before that is known."""
        if self._llms.model is None:
            raise UnavailableError("the LLM service is not connected yet; try again later")
        return self._llms.model

    def _session(self, checked: CheckedRequest, model: ServedModel) -> Session:
        request, options = checked.request, checked.request.speculation
        max_num_nodes = min(model.max_num_tree_nodes or MAX_NUM_TREE_NODES, MAX_NUM_TREE_NODES) - 1
        if min(options.max_num_nodes or self._trees.max_num_nodes, max_num_nodes) == 0:
            options = replace(options, disabled=True)  # trees of no nodes: no SSM needs to know anything
        choose_ssms = None
        if is_adaptive(options, self._trees) and not (options.disabled or options.ssms):
            choose_ssms = self.pauses.choice_for(lambda: self._ssms.present_ssms)

        def wishes() -> DrafterWishes:  # now: an SSM that is paused has none
            return self._ssms.wishes_of(options if choose_ssms is None else replace(options, ssms=choose_ssms()))

        told = wishes()
        policy = policy_for(
            request, self._trees, self._measurements, max_num_nodes,
            reads_hidden_states=lambda: bool(told.hidden_layers and wishes().hidden_layers),
        )  # fmt: skip
        return Session(
            request,
            self._ssms.drafters_for(options),
            self._verifier,
            policy,
            vocab_size=model.vocab_size,
            max_model_len=model.max_model_len,
            correct=functools.partial(
                self._measurements.calibration.corrected, is_sampled=request.sampling.temperature >= MIN_TEMPERATURE
            ),
            wishes=told,
            choose_ssms=choose_ssms,
            hidden_room=self.hidden_room,
        )

    def _responses_to(
        self, step: Step, output: OutputMessages, session_id: str, model: ServedModel, span: Span
    ) -> Iterable[router_pb2.GenerateResponse]:
        """Counted and traced. One, but for a prompt's tokens with their log-probabilities."""
        if step.num_prompt_tokens_read is not None:
            return output.of_prompt(step)
        if span.is_recording:
            span.event(request_trace.STEP_EVENT, request_trace.step_attributes(step))
        counted, response = output.of_step(step)
        self._count_step(counted, session_id)
        if response.finish_reason and span.is_recording:
            span.set(request_trace.result_attributes(response, model.name, session_id))
        return (response,)


def _deadline_of(context: Any, now_s: float) -> float | None:
    """The client's, on ``time.monotonic``'s clock."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else now_s + remaining_s


def _num_tokens_about(request: router_pb2.GenerateRequest) -> int:
    """Of a prompt that is not tokenised yet."""
    return len(request.token_ids.token_ids) or request.ByteSize() // _BYTES_PER_TOKEN


def _connection_of(context: Any) -> str | None:
    """What tells connections apart; None for those of unix sockets, which have no addresses."""
    peer = context.peer()
    return peer if peer.startswith(("ipv4:", "ipv6:")) else None
