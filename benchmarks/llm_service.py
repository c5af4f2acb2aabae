"""What the LLM service computes for a verification beside the model: its processor time, over a runner that has none.

    python -m benchmarks.llm_service --rounds 10

A process serves (gRPC, streams, the engine's thread, planning, acceptance), this one asks as a router does. A pass of the runner
takes 2 ms, in which the interpreter is free, and chooses so that trees are accepted to their third node. Printed is the serving
process' processor time for a step, the median over the rounds with its quartiles: of trees, of steps ahead, and of steps ahead whose
verdicts are joined.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

import grpc
import torch

from llm_service.config import VerifierConfig
from llm_service.servicer import LlmServicer
from llm_service.verifier import VerifierEngine
from specgrove.addresses import grpc_target
from specgrove.kernels.rows import PassRows
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.v1 import llm_pb2, llm_pb2_grpc

_VOCAB_SIZE = 50_000
_NUM_SLOTS = 60_000
_PASS_S = 0.002
_PROMPT = (5, 6, 7, 8)
_NUM_STEPS_AHEAD = 64


@dataclass(frozen=True, slots=True)
class Case:
    """So many sessions at once, each of so many steps."""

    name: str
    num_sessions: int
    num_steps: int
    num_steps_ahead: int = 1
    stream_interval_s: float = 0.0


CASES = (
    Case("trees, 1 session", 1, 300),
    Case("trees, 16 sessions", 16, 100),
    Case("steps ahead, 1 session, a verdict each", 1, 512, _NUM_STEPS_AHEAD),
    Case("steps ahead, 16 sessions, a verdict each", 16, 256, _NUM_STEPS_AHEAD),
    Case("steps ahead, 16 sessions, joined within 20 ms", 16, 512, _NUM_STEPS_AHEAD, 0.02),
)


class NoModel:
    """A ``Runner`` whose choice after a token is the next higher id."""

    max_num_in_flight = 1
    max_num_ahead = 0
    choices_are_cheap = False
    num_slots = _NUM_SLOTS
    spec = SimpleNamespace(vocab_size=_VOCAB_SIZE)

    def __init__(self) -> None:
        self._in_flight: deque[list[int]] = deque()

    def start(self, rows: PassRows) -> None:
        """See ``Runner``."""
        self._in_flight.append([rows.token_ids[row] + 1 for row in rows.asked_rows])

    def finish(self) -> PassOutput:
        """See ``Runner``."""
        time.sleep(_PASS_S)
        return PassOutput(self._in_flight.popleft(), torch.empty(0, _VOCAB_SIZE))

    def discard(self) -> None:
        """See ``Runner``."""
        self._in_flight.clear()


def serve(address: str, stream_interval_s: float, parent: Connection) -> None:
    """Until the parent says so; each time it asks it is told this process' processor time in seconds."""
    asyncio.run(_serve(address, stream_interval_s, parent))


async def _serve(address: str, stream_interval_s: float, parent: Connection) -> None:
    runner: Any = NoModel()
    engine = VerifierEngine(
        runner, VerifierConfig(_NUM_SLOTS, stream_interval_s=stream_interval_s, has_prefix_cache=False)
    )
    loop: StepLoop[VerifyWork, Verdict | PromptProgress] = StepLoop(engine, "verifier")
    model: Any = None  # nobody asks what it is
    servicer = LlmServicer(model, engine, loop, _NUM_SLOTS)
    server = Server(
        address,
        lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(servicer, server),
        health=Health(()),
        drain=servicer.drain,
    )
    await server.start()
    parent.send(None)
    while await asyncio.to_thread(parent.recv):
        parent.send(time.process_time())
    await server.stop(1.0)
    loop.stop()


class Sessions:
    """Those of one round, on a stream of their own."""

    def __init__(self, stub: llm_pb2_grpc.LlmServiceStub, case: Case, number: int) -> None:
        self._stub = stub
        self._case = case
        self._num_left = {f"{number} {i}": case.num_steps for i in range(case.num_sessions)}
        self._num_items = 0

    async def run(self) -> int:
        """Until all have made their steps; how many they were."""
        session_ids = list(self._num_left)
        stub: Any = self._stub  # its types are those of blocking calls
        call = stub.Verify()
        items = [self._item(session_id, 0, _PROMPT[-1]) for session_id in session_ids]
        while self._num_left:
            if items:
                await call.write(llm_pb2.VerifyRequest(items=items))
            results = (await call.read()).results
            items = [item for result in results if (item := self._next(result)) is not None]
        call.cancel()
        for session_id in session_ids:
            await stub.CloseSession(llm_pb2.LlmServiceCloseSessionRequest(session_id=session_id))
        return self._case.num_steps * len(session_ids)

    def _next(self, result: llm_pb2.VerifyResult) -> llm_pb2.VerifyItem | None:
        verdict, session_id = result.verdict, result.session_id
        self._num_left[session_id] -= verdict.num_steps
        if verdict.has_more:
            return None
        if not self._num_left[session_id]:
            del self._num_left[session_id]
            return None
        return self._item(session_id, verdict.base + len(verdict.token_ids), verdict.token_ids[-1])

    def _item(self, session_id: str, base: int, root: int) -> llm_pb2.VerifyItem:
        self._num_items += 1
        num_steps = min(self._case.num_steps_ahead, self._num_left[session_id])
        item = llm_pb2.VerifyItem(session_id=session_id, item_id=self._num_items, base=base, num_steps=num_steps)
        is_tree = self._case.num_steps_ahead == 1
        item.tree.token_ids.extend((root, root + 1, root + 2, 1, 2, 3) if is_tree else (root,))
        item.tree.parents.extend((-1, 0, 1, 2, 1, 0) if is_tree else (-1,))
        item.tree.log_probs.extend((0.0,) + (-1.0,) * 5 if is_tree else (0.0,))
        if base == 0:
            item.new_token_ids.extend(_PROMPT)
            item.session.sampling.SetInParent()
            item.session.prompt_len = len(_PROMPT)
        return item


async def times_us(case: Case, num_rounds: int, folder: str) -> list[float]:
    """Of each round, the service's processor time for a step. The first, which warms up, is left out."""
    ours, theirs = multiprocessing.Pipe()
    address = f"unix:{folder}/service.sock"
    spawn = multiprocessing.get_context("spawn")
    service = spawn.Process(target=serve, args=(address, case.stream_interval_s, theirs))
    service.start()
    ours.recv()

    def spent_s() -> float:
        ours.send(True)
        found: float = ours.recv()
        return found

    found = []
    async with grpc.aio.insecure_channel(grpc_target(address)) as channel:
        stub = llm_pb2_grpc.LlmServiceStub(channel)
        for number in range(num_rounds + 1):
            before_s = spent_s()
            num_steps = await Sessions(stub, case, number).run()
            found.append((spent_s() - before_s) / num_steps * 1e6)
    ours.send(False)
    service.join()
    return found[1:]


def main() -> int:
    """Prints a line per case."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_service", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    num_rounds: int = parser.parse_args().rounds
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            low, middle, high = statistics.quantiles(asyncio.run(times_us(case, num_rounds, folder)), n=4)
        print(f"{case.name}: {middle:.0f} us of processor time a step ({low:.0f} to {high:.0f})", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
