"""The replayed services of ``benchmarks.async_drafting``: what they choose and propose is a trace's, and how long they take is given.

    python -m benchmarks.async_drafting.services llm ADDRESS TRACE --delay-ms D --pass-ms P
    python -m benchmarks.async_drafting.services ssm ADDRESS TRACE --delay-ms D --pass-ms P --draft-ahead on|off

The SSM service is the real one (its servicer, pool, drafts and trees) over a runner that computes nothing. Tokens are written anew, for the
toy tokenizer: the right one of each place, and wrong ones. A prompt is one token, the number of the trace's output. Messages
take ``--delay-ms`` on their way to a service, and as long on their way back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import numpy as np
import torch

from benchmarks.async_drafting.trace import NUM_CANDIDATES, Trace
from specgrove.kernels.rows import PassRows
from specgrove.runtime.model_runner import DraftRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.runtime.top_k import TopK
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc, token_tree_pb2
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from ssm_service.servicer import SsmServicer
from tests.router.toy_language import VOCAB_SIZE, toy_tokenizer_json
from tests.router.toy_services import ToyLlm

_MAX_MODEL_LEN = 4096
_NUM_SLOTS = 32768
_MAX_NUM_TREE_NODES = 17  # root counted: up to so many rows a pass takes the same time
_FIRST_WRONG = 64

MessageT = TypeVar("MessageT")


def right_token(position: int) -> int:
    """What the LLM chooses at a position."""
    return 33 + position % 7


def is_right(token_id: int, position: int) -> bool:
    """Whether it would."""
    return token_id == right_token(position)


async def delayed(messages: AsyncIterator[MessageT], delay_s: float) -> AsyncIterator[MessageT]:
    """Each so much later, as on a long way: they don't wait for one another."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, MessageT | None]] = asyncio.Queue()

    async def take_in() -> None:
        try:
            async for message in messages:
                on_the_way.put_nowait((loop.time() + delay_s, message))
        finally:
            on_the_way.put_nowait((0.0, None))

    taking = asyncio.create_task(take_in())
    try:
        while True:
            arrives_s, message = await on_the_way.get()
            if message is None:
                await taking  # raises what ended them
                return
            if (wait_s := arrives_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            yield message
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)


class ReplayedLlm(ToyLlm):
    """A pass takes ``pass_s``, whatever its rows. Requests are served side by side."""

    def __init__(self, trace: Trace, pass_s: float, delay_s: float) -> None:
        super().__init__()
        self._trace, self._pass_s, self._delay_s = trace, pass_s, delay_s

    async def Verify(self, request_iterator: Any, context: Any) -> AsyncIterator[llm_pb2.VerifyResponse]:  # noqa: N802
        await context.send_initial_metadata(())
        async for response in delayed(self._answers(delayed(request_iterator, self._delay_s)), self._delay_s):
            yield response

    async def _answers(self, requests: AsyncIterator[llm_pb2.VerifyRequest]) -> AsyncIterator[llm_pb2.VerifyResponse]:
        results: asyncio.Queue[llm_pb2.VerifyResult | None] = asyncio.Queue()
        num_steps: dict[int, int] = {}
        working: set[asyncio.Task[None]] = set()

        async def take_in() -> None:
            async for request in requests:
                for item in request.items:
                    num_steps[item.item_id] = item.num_steps or 1
                    task = asyncio.create_task(self._work(item, num_steps, results))
                    working.add(task)
                    task.add_done_callback(working.discard)
                for item_id in request.finish_early_item_ids:
                    if item_id in num_steps:
                        num_steps[item_id] = 1
            results.put_nowait(None)

        taking = asyncio.create_task(take_in())
        try:
            while (result := await results.get()) is not None:
                yield llm_pb2.VerifyResponse(results=[result])
        finally:
            for task in (taking, *working):
                task.cancel()

    async def _work(
        self, item: llm_pb2.VerifyItem, num_steps: dict[int, int], results: asyncio.Queue[llm_pb2.VerifyResult | None]
    ) -> None:
        loop = asyncio.get_running_loop()
        base, tree = item.base + len(item.new_token_ids), item.tree
        ends_s = loop.time()
        while num_steps[item.item_id] > 0:
            num_steps[item.item_id] -= 1
            ends_s += self._pass_s
            await asyncio.sleep(ends_s - loop.time())
            accepted = accepted_nodes(tree, base)
            token_ids = [right_token(base + number) for number in range(len(accepted) + 1)]
            verdict = llm_pb2.Verdict(
                base=base,
                token_ids=token_ids,
                accepted_nodes=accepted,
                pass_ms=self._pass_s * 1e3,
                pass_num_rows=len(tree.token_ids),
                has_more=num_steps[item.item_id] > 0,
            )
            result = llm_pb2.VerifyResult(session_id=item.session_id, item_id=item.item_id, verdict=verdict)
            results.put_nowait(result)
            base, tree = base + len(token_ids), token_tree_pb2.TokenTree(token_ids=token_ids[-1:], parents=[-1])
        del num_steps[item.item_id]

    async def GetModelInfo(self, request: Any, context: Any) -> llm_pb2.LlmServiceGetModelInfoResponse:  # noqa: N802
        info = await super().GetModelInfo(request, context)
        info.max_model_len, info.max_num_tree_nodes = _MAX_MODEL_LEN, _MAX_NUM_TREE_NODES
        return info

    async def Warmup(self, request: Any, context: Any) -> llm_pb2.LlmServiceWarmupResponse:  # noqa: N802
        times = [token_tree_pb2.PassTime(num_rows=num, pass_ms=self._pass_s * 1e3) for num in (1, 4, 8, 16)]
        return llm_pb2.LlmServiceWarmupResponse(pass_times=times, is_complete=True)


def accepted_nodes(tree: token_tree_pb2.TokenTree, base: int) -> list[int]:
    """The nodes of a tree below so many committed tokens that are accepted."""
    accepted: list[int] = []
    node = 0
    for child in range(1, len(tree.token_ids)):
        if tree.parents[child] == node and is_right(tree.token_ids[child], base + len(accepted)):
            accepted.append(child)
            node = child
    return accepted


class ReplayedRunner:
    """A ``DraftRunner`` whose passes take ``pass_s``. What it knows of a KV slot: its token, and whether that is the right one."""

    num_slots = _NUM_SLOTS

    def __init__(self, trace: Trace, pass_s: float) -> None:
        self.spec = SimpleNamespace(
            vocab_size=VOCAB_SIZE, max_position_embeddings=_MAX_MODEL_LEN, num_parameters=1_000_000
        )
        self._trace, self._pass_s = trace, pass_s
        self._token_of = np.zeros(_NUM_SLOTS, np.int64)
        self._is_right = np.zeros(_NUM_SLOTS, bool)
        self._begun: deque[tuple[float, PassRows]] = deque()
        outputs = trace.outputs
        self._elsewhere = np.concatenate([output.log_probs for output in outputs])  # what is proposed off the path

    def start_top_k(self, rows: PassRows, k: int) -> None:
        """See ``DraftRunner``."""
        self._begun.append((time.perf_counter() + self._pass_s, rows))

    def finish_top_k(self, k: int) -> TopK:
        """See ``DraftRunner``."""
        ends_s, rows = self._begun.popleft()
        for row in range(rows.num_rows):
            slot, token_id, position = rows.slots[row], rows.token_ids[row], rows.positions[row]
            self._token_of[slot] = token_id
            self._is_right[slot] = position == 0 or is_right(token_id, position)
        ids = np.full((len(rows.asked_rows), NUM_CANDIDATES), -1)
        log_probs = np.full((len(rows.asked_rows), NUM_CANDIDATES), -np.inf, np.float32)
        for place, row in enumerate(rows.asked_rows):
            ids[place], log_probs[place] = self._proposed(rows, row)
        if (wait_s := ends_s - time.perf_counter()) > 0:
            time.sleep(wait_s)
        width = min(k, NUM_CANDIDATES)
        return TopK(torch.from_numpy(log_probs[:, :width].copy()), torch.from_numpy(ids[:, :width].copy()))

    def discard(self) -> None:
        """See ``DraftRunner``."""
        self._begun.clear()

    def _proposed(self, rows: PassRows, row: int) -> tuple[Any, Any]:
        sequence, next_position = rows.row_seq[row], rows.positions[row] + 1
        start = rows.context_offsets[sequence]
        first_slot = rows.context_slots[start] if rows.context_offsets[sequence + 1] > start else rows.slots[row]
        output = self._trace.outputs[int(self._token_of[first_slot])]
        place = next_position - 1  # the prompt is one token
        wrong = np.arange(_FIRST_WRONG, _FIRST_WRONG + NUM_CANDIDATES)
        if place < len(output.token_ids) and all(self._is_right[slot] for slot in _path(rows, row)):
            is_choice = output.candidate_ids[place] == output.token_ids[place]
            return np.where(is_choice, right_token(next_position), wrong), output.log_probs[place]
        number = (int(self._token_of[first_slot]) * 7919 + next_position * 104729 + rows.token_ids[row] * 31) % len(
            self._elsewhere
        )
        return wrong, self._elsewhere[number]


def _path(rows: PassRows, row: int) -> list[int]:
    """The slots of a tree's row and of its ancestors in the tree; none of a row of committed tokens."""
    num_words = rows.num_mask_words
    words = rows.row_masks[row * num_words : (row + 1) * num_words]
    mask = sum((word & (1 << 64) - 1) << 64 * number for number, word in enumerate(words))
    start = rows.tree_offsets[rows.row_seq[row]]
    return [rows.tree_slots[start + node] for node in range(mask.bit_length()) if mask >> node & 1]


def replayed_ssm(trace: Trace, pass_s: float, width: int = 4) -> NeuralSsm:
    """The real drafts and trees over the replayed runner."""
    return NeuralSsm("replayed", cast(DraftRunner, ReplayedRunner(trace, pass_s)), Beam(width), None)


class ReplayedSsm(SsmServicer):
    """The real servicer, behind a long way."""

    def __init__(self, trace: Trace, pass_s: float, delay_s: float, draft_ahead: str) -> None:
        pool = DrafterPool([replayed_ssm(trace, pass_s)], PoolConfig())
        vocab = Tokenizer(toy_tokenizer_json(), {}, None).vocab_sha256
        info = ssm_pb2.SsmInfo(name="replayed", mode="beam", vocab_sha256=vocab, max_model_len=_MAX_MODEL_LEN)
        super().__init__([info], pool, StepLoop(pool, "pool"), draft_ahead=draft_ahead)
        self._delay_s = delay_s

    async def Draft(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[ssm_pb2.DraftRequest], context: Any
    ) -> AsyncIterator[ssm_pb2.DraftResponse]:
        answers = super().Draft(delayed(request_iterator, self._delay_s), context)
        async for response in delayed(answers, self._delay_s):
            yield response


async def _serve(arguments: argparse.Namespace) -> None:
    trace = Trace.read(arguments.trace)
    pass_s, delay_s = arguments.pass_ms / 1e3, arguments.delay_ms / 1e3

    def register(server: Any) -> None:
        if arguments.role == "llm":
            llm_pb2_grpc.add_LlmServiceServicer_to_server(ReplayedLlm(trace, pass_s, delay_s), server)
        else:
            service = ReplayedSsm(trace, pass_s, delay_s, arguments.draft_ahead)
            ssm_pb2_grpc.add_SsmServiceServicer_to_server(cast(Any, service), server)

    names = ["specgrove.v1.LlmService" if arguments.role == "llm" else "specgrove.v1.SsmService"]
    server = Server(arguments.address, register, health=Health(names))
    await server.start()
    await asyncio.Event().wait()


def main() -> int:
    """Exit code 0 after SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.async_drafting.services", description=__doc__)
    parser.add_argument("role", choices=("llm", "ssm"))
    parser.add_argument("address")
    parser.add_argument("trace", type=Path)
    parser.add_argument("--delay-ms", type=float, required=True)
    parser.add_argument("--pass-ms", type=float, required=True)
    parser.add_argument("--draft-ahead", choices=("on", "off"), default="off")
    torch.set_num_threads(1)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
