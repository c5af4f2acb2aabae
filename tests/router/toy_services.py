"""An LLM service whose model is a hash of the prefix; its SSM service is ``toy_ssm``. No torch.

The toy model's output is known (``toy_output``), so every test compares what a client got with what it must get.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import struct
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from specgrove.errors import InvalidRequestError, ResourceExhaustedError, StaleBaseError
from specgrove.loop.request import TraceContext
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import HiddenStates, RowTopK
from specgrove.loop.works import LogProbs, PromptProgress, SessionParams, Verdict, VerifyWork
from specgrove.machine.compute_place import ComputePlace
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import llm_pb2, llm_pb2_grpc, token_tree_pb2
from specgrove.wire import works
from specgrove.wire.compute_place import place_to_proto
from tests.router.toy_language import CHAT_TEMPLATE, EOS, VOCAB_SIZE, NextToken, toy_next, toy_tokenizer_json
from tests.router.toy_sessions import ToySession, ToySessions
from tests.router.toy_sides import ToyVerifierSession
from tests.serving.task_streams import TaskStreams

CONTEXT_LEN = 512
HIDDEN_SIZE = 2
_NUM_LAYERS = 4
# Rows of a window that are told in one message.
_NUM_TOLD = 3

MODEL = "toy"
# A model's step takes longer than a message does, so that the router has a say in how many are made ahead.
_MESSAGE_S = 0.001


def toy_log_probs(prefix: Sequence[int], num_top: int) -> LogProbs:
    """What the toy makes of the last token of a part of a prompt. Exact in float32."""
    token_id, place = prefix[-1], len(prefix) - 1
    top = tuple(((token_id + rank) % VOCAB_SIZE, -place - rank / 4) for rank in range(num_top))
    return LogProbs(-place - token_id / 256, token_id + 1, top)


def toy_hidden_states(token_ids: Sequence[int], start: int, layers: Sequence[int]) -> HiddenStates:
    """Of rows ``start`` and those after it: a row at a layer is its token, and where it is."""
    rows = range(start, len(token_ids))
    values = b"".join(struct.pack("<HH", token_ids[row], row * 8 + layer) for row in rows for layer in layers)
    return HiddenStates(start, len(rows), tuple(layers), values)


class ToyLlm(llm_pb2_grpc.LlmServiceServicer):
    """Sessions as an LLM service keeps them; knobs make it slow, forgetful or full."""

    def __init__(self, next_token: NextToken = toy_next, step_s: float = 0.0) -> None:
        self.sessions = ToySessions()
        self.streams = TaskStreams(
            self._verify,
            llm_pb2.VerifyResult,
            llm_pb2.VerifyResponse,
            forget=self.sessions.close,
            finish_early=lambda item: self.finish_early(item.session_id),
        )
        self.gate = asyncio.Event()  # a step waits for it
        self.gate.set()
        self.num_free_steps = 0  # of each session: they don't wait
        self.closed: list[str] = []
        self.trace_contexts: list[TraceContext] = []
        self.finished_early: list[str] = []
        self.num_verified = 0
        self.forget_probability = 0.0
        self.num_full = 0
        self.full_after: int | None = None
        self.num_joined = 1
        self.numerics = ["weights toy", "cpu toy"]
        self.protocol_version = works.PROTOCOL_VERSION
        self.chunk_len: int | None = None  # tokens of a prompt that are read at a time
        self.num_free_chunks = 1 << 30  # of each prompt whose log-probabilities are told: they don't wait
        self.prompts_asked: list[tuple[int, int | None]] = []  # from which place on, and how many at each
        self.recommended = token_tree_pb2.SamplingParams()
        self.hidden_layers = tuple(range(_NUM_LAYERS + 1))
        self.max_num_row_top_k = 4
        self.opened: list[SessionParams] = []
        self.num_cached_tokens = 0  # of each session, as its first verdict says
        self.place = ComputePlace()
        self.step_s = step_s
        self._next_token = next_token
        self._random = random.Random(0)

    async def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """Progress where it is wanted; then the first verdict by itself, and ``num_joined`` steps to a verdict."""
        session = self._take_in(work)
        try:
            async with contextlib.aclosing(self._answers(work, session)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            session.is_under_way = False

    def _take_in(self, work: VerifyWork) -> ToySession:
        if (work.base == 0) != (work.session is not None) or (work.base == 0 and not work.new_token_ids):
            raise InvalidRequestError.of("base", "base 0 must come with the session's parameters and all tokens")
        if any(token_id >= VOCAB_SIZE for token_id in work.new_token_ids):
            raise InvalidRequestError.of("new_token_ids", "are not in the vocabulary")
        try:
            work.tree.validated(vocab_size=VOCAB_SIZE, max_num_nodes=64)
        except ValueError as error:
            raise InvalidRequestError.of("tree", str(error)) from error
        session = self.sessions.take_in(work.session_id, work.base, work.new_token_ids, work.session)
        if work.session is not None:
            self.trace_contexts.append(work.session.trace_context)
            self.opened.append(work.session)
        if work.tree.token_ids[0] != session.token_ids[-1]:
            del self.sessions[work.session_id]
            raise InvalidRequestError.of("tree.token_ids[0]", "the root must be the last committed token")
        return session

    async def _answers(self, work: VerifyWork, session: ToySession) -> AsyncGenerator[Verdict | PromptProgress, None]:
        unsent: Verdict | None = None
        num_to_join = 1
        if self.chunk_len is not None and work.session is not None and work.session.wants_prompt_progress:
            for num_read in range(self.chunk_len, len(work.new_token_ids), self.chunk_len):
                yield PromptProgress(num_read)
        if work.session is not None and work.session.num_prompt_log_probs is not None:
            async for progress in self._prompt_log_probs(work.session, work.new_token_ids):
                yield progress
        if work.session is not None and work.session.hidden_layers and work.tells_hidden_states:
            for progress in self._window(work.session, work.new_token_ids):
                yield progress
        async with contextlib.aclosing(self._steps(work, session)) as steps:
            async for step in steps:
                unsent = step if unsent is None else unsent.joined(step)
                if unsent.num_steps == num_to_join or not step.has_more:
                    yield unsent
                    unsent, num_to_join = None, self.num_joined

    def _window(self, session: SessionParams, token_ids: Sequence[int]) -> Iterator[PromptProgress]:
        end = len(token_ids) - 1
        for start in range(max(end - session.hidden_window, 0), end, _NUM_TOLD):
            part_end = min(start + _NUM_TOLD, end)
            yield PromptProgress(
                part_end, hidden_states=toy_hidden_states(token_ids[:part_end], start, session.hidden_layers)
            )

    async def _prompt_log_probs(
        self, session: SessionParams, token_ids: Sequence[int]
    ) -> AsyncGenerator[PromptProgress, None]:
        self.prompts_asked.append((session.prompt_log_probs_start, session.num_prompt_log_probs))
        chunk_len = self.chunk_len or session.prompt_len
        for number, start in enumerate(range(session.prompt_log_probs_start, session.prompt_len, chunk_len)):
            if number >= self.num_free_chunks:
                await self.gate.wait()
            places = range(start, min(start + chunk_len, session.prompt_len))
            found = [toy_log_probs(token_ids[: place + 1], session.num_prompt_log_probs or 0) for place in places]
            yield PromptProgress(places[-1], start, tuple(found))

    async def _steps(self, work: VerifyWork, session: ToySession) -> AsyncGenerator[Verdict, None]:
        for num_steps_left in range(work.num_steps - 1, -1, -1):
            self.sessions.check(work.session_id, session)
            verdict = await self._step(work)
            is_stopped = not set(verdict.token_ids).isdisjoint(session.params.sampling.stop_token_ids)
            has_more = num_steps_left > 0 and not is_stopped and not session.finishes_early
            session.is_under_way = has_more  # whoever gets the last verdict may go on at once
            yield replace(verdict, has_more=has_more)
            if not has_more:
                return
            root = TokenTree.of_root(verdict.token_ids[-1])
            work = replace(
                work, base=verdict.base + len(verdict.token_ids), new_token_ids=(), tree=root, session=None, num_steps=1
            )

    async def _step(self, work: VerifyWork) -> Verdict:
        """The next verdict of a session, whose tokens are all held."""
        session = self.sessions[work.session_id]
        if self.full_after == self.num_verified:
            self.full_after = None
            del self.sessions[work.session_id]
            raise ResourceExhaustedError("no free KV slots")
        if self.num_full > 0:
            self.num_full -= 1
            del self.sessions[work.session_id]
            raise ResourceExhaustedError("no free KV slots")
        if self._random.random() < self.forget_probability:
            self.sessions.pop(work.session_id, None)
            raise StaleBaseError(0)
        if session.num_steps >= self.num_free_steps:
            await self.gate.wait()
        session.num_steps += 1
        if self.step_s:
            await asyncio.sleep(self.step_s)
        self.sessions.check(work.session_id, session)
        tokens, sampling = session.token_ids, session.params.sampling
        base, node, accepted, emitted = len(tokens), 0, [], []
        while True:
            choice = self._next_token(tokens, sampling.seed)
            tokens.append(choice)
            emitted.append(choice)
            children = [
                i for i, parent in enumerate(work.tree.parents) if parent == node and work.tree.token_ids[i] == choice
            ]
            if not children:
                break
            node = children[0]
            accepted.append(node)
        self.num_verified += 1
        wanted = sampling.num_log_probs
        log_probs = () if wanted is None else tuple(LogProbs(-0.5, 1, ((t, -0.5),) * wanted) for t in emitted)
        states = None
        if session.params.hidden_layers and work.tells_hidden_states:
            states = toy_hidden_states(tokens[:-1], base - 1, session.params.hidden_layers)
        rows: list[RowTopK] = []
        if session.params.num_row_top_k:
            depths = work.tree.depths()
            rows = [
                RowTopK(base - 1 + depth, token_id, ((token_id, -0.5),) * session.params.num_row_top_k)
                for token_id, depth in zip(work.tree.token_ids, depths, strict=True)
            ]
        return Verdict(
            base, tuple(emitted), tuple(accepted), log_probs, 1.0, work.tree.num_nodes,
            hidden_states=states, row_top_k=tuple(rows),
            num_cached_tokens=self.num_cached_tokens if session.num_steps == 1 else 0,
        )  # fmt: skip

    def finish_early(self, session_id: str) -> None:
        self.finished_early.append(session_id)
        if session_id in self.sessions:
            self.sessions[session_id].finishes_early = True

    def session(self, session_id: str) -> ToyVerifierSession:
        return ToyVerifierSession(session_id, self)

    async def close(self, session_id: str) -> None:
        self.sessions.close(session_id)
        self.closed.append(session_id)

    async def _verify(self, item: llm_pb2.VerifyItem) -> AsyncGenerator[llm_pb2.VerifyResult, None]:
        async for found in self.verify(works.verify_work_from_proto(item)):
            result = llm_pb2.VerifyResult(session_id=item.session_id, item_id=item.item_id)
            if isinstance(found, PromptProgress):
                result.progress.CopyFrom(works.progress_to_proto(found))
            else:
                result.verdict.CopyFrom(works.verdict_to_proto(found))
            yield result
            if result.verdict.has_more:
                await asyncio.sleep(_MESSAGE_S)

    def Verify(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        return self.streams.serve(request_iterator, context)

    async def GetModelInfo(self, request: Any, context: Any) -> llm_pb2.LlmServiceGetModelInfoResponse:  # noqa: N802
        return llm_pb2.LlmServiceGetModelInfoResponse(
            model=MODEL,
            architecture="Toy",
            vocab_size=VOCAB_SIZE,
            max_model_len=CONTEXT_LEN,
            dtype="float32",
            eos_token_ids=[EOS],
            chat_end_token_ids=[EOS],
            vocab_sha256=Tokenizer(toy_tokenizer_json(), {}, None).vocab_sha256,
            numerics=self.numerics,
            protocol_version=self.protocol_version,
            max_num_tree_nodes=64,
            recommended_sampling=self.recommended,
            hidden_layers=self.hidden_layers,
            hidden_size=HIDDEN_SIZE,
            num_layers=_NUM_LAYERS,
            max_num_row_top_k=self.max_num_row_top_k,
            place=place_to_proto(self.place),
        )

    async def GetTokenizer(self, request: Any, context: Any) -> Any:  # noqa: N802
        content = toy_tokenizer_json()
        for start in range(0, len(content), 4096):
            yield llm_pb2.GetTokenizerResponse(file_name="tokenizer.json", content=content[start : start + 4096])
        config = json.dumps({"eos_token": "<eos>"}).encode()
        yield llm_pb2.GetTokenizerResponse(file_name="tokenizer_config.json", content=config)
        yield llm_pb2.GetTokenizerResponse(file_name="chat_template.jinja", content=CHAT_TEMPLATE.encode())

    async def Warmup(self, request: Any, context: Any) -> llm_pb2.LlmServiceWarmupResponse:  # noqa: N802
        times = [token_tree_pb2.PassTime(num_rows=n, pass_ms=10 + n / 4) for n in (1, 4, 16, 64)]
        return llm_pb2.LlmServiceWarmupResponse(pass_times=times, is_complete=True)

    async def GetLoad(self, request: Any, context: Any) -> llm_pb2.LlmServiceGetLoadResponse:  # noqa: N802
        return llm_pb2.LlmServiceGetLoadResponse()

    async def CloseSession(self, request: Any, context: Any) -> llm_pb2.LlmServiceCloseSessionResponse:  # noqa: N802
        await self.close(request.session_id)
        return llm_pb2.LlmServiceCloseSessionResponse()


def halting_llm(num_steps: int) -> ToyLlm:
    """Makes so many steps of each session; further ones when its gate is opened."""
    llm = ToyLlm()
    llm.gate.clear()
    llm.num_free_steps = num_steps
    return llm
