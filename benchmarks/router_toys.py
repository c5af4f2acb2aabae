"""The toy services of ``benchmarks.router``: they know the next token from the last one, keep no sessions, and answer at once.

    python -m benchmarks.router_toys llm ADDRESS PASS_MS
    python -m benchmarks.router_toys ssm ADDRESS

What they say of themselves is what the toys of the router's tests say. Their streams are written out here, so that they cost little
and stay the same whatever becomes of the services' own.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm

_MAX_MODEL_LEN = 100_000
_NUM_ACCEPTED = 2
_MAX_NUM_RESULTS = 64  # in a message


def next_token(token_id: int) -> int:
    """A printable byte."""
    return 32 + (token_id - 31) % 95


def _following(token_id: int, num_tokens: int) -> list[int]:
    token_ids = [token_id]
    for _ in range(num_tokens):
        token_ids.append(next_token(token_ids[-1]))
    return token_ids[1:]


@dataclass(slots=True)
class _UnderWay:
    """An item: the committed length, the last committed token, and steps that are left."""

    item: llm_pb2.VerifyItem
    base: int
    token_id: int
    num_steps: int

    def step(self) -> llm_pb2.VerifyResult:
        """Two nodes of a tree are right; where there is none, a step is one token."""
        num_accepted = min(_NUM_ACCEPTED, len(self.item.tree.token_ids) - 1)
        token_ids = _following(self.token_id, num_accepted + 1)
        self.num_steps -= 1
        verdict = llm_pb2.Verdict(
            base=self.base,
            token_ids=token_ids,
            accepted_nodes=range(1, num_accepted + 1),
            pass_ms=1.0,
            pass_num_rows=1,
            has_more=self.num_steps > 0,
        )
        self.base, self.token_id = self.base + len(token_ids), token_ids[-1]
        return llm_pb2.VerifyResult(session_id=self.item.session_id, item_id=self.item.item_id, verdict=verdict)


class InstantLlm(ToyLlm):
    """Answers all that is under way, again and again."""

    def __init__(self, pass_s: float) -> None:
        super().__init__()
        self._pass_s = pass_s

    async def Verify(self, request_iterator: Any, context: Any) -> AsyncIterator[llm_pb2.VerifyResponse]:  # noqa: N802
        await context.send_initial_metadata(())
        under_way: dict[int, _UnderWay] = {}
        has_work = asyncio.Event()
        reading = asyncio.create_task(self._read(request_iterator, under_way, has_work))
        try:
            while not reading.done():
                await has_work.wait()
                results = [work.step() for work in under_way.values()]
                for item_id in [item_id for item_id, work in under_way.items() if work.num_steps <= 0]:
                    del under_way[item_id]
                if not under_way:
                    has_work.clear()
                for start in range(0, len(results), _MAX_NUM_RESULTS):
                    yield llm_pb2.VerifyResponse(results=results[start : start + _MAX_NUM_RESULTS])
                await asyncio.sleep(self._pass_s)
        finally:
            reading.cancel()

    async def _read(self, requests: Any, under_way: dict[int, _UnderWay], has_work: asyncio.Event) -> None:
        async for request in requests:
            for item in request.items:
                base = item.base + len(item.new_token_ids)
                under_way[item.item_id] = _UnderWay(item, base, item.tree.token_ids[0], item.num_steps or 1)
            for item_id in request.finish_early_item_ids:
                if item_id in under_way:
                    under_way[item_id].num_steps = 1
            if under_way:
                has_work.set()

    async def GetModelInfo(self, request: Any, context: Any) -> llm_pb2.LlmServiceGetModelInfoResponse:  # noqa: N802
        info = await super().GetModelInfo(request, context)
        info.max_model_len = _MAX_MODEL_LEN
        return info


class InstantSsm(ToySsm):
    """Drafts a chain of which the first two tokens are right, and leaves beside it, as many nodes as are asked for."""

    def __init__(self) -> None:
        super().__init__(("toy",))

    async def Draft(self, request_iterator: Any, context: Any) -> AsyncIterator[ssm_pb2.DraftResponse]:  # noqa: N802
        await context.send_initial_metadata(())
        async for request in request_iterator:
            yield ssm_pb2.DraftResponse(results=[_draft_of(item) for item in request.items])


def _draft_of(item: ssm_pb2.DraftItem) -> ssm_pb2.DraftResult:
    draft = ssm_pb2.Draft(base=item.base + len(item.new_token_ids), draft_ms=0.1)
    if item.max_num_nodes:
        depth = min(item.max_depth, item.max_num_nodes)
        token_ids, parents = [item.new_token_ids[-1]], [-1]
        for node in range(depth):
            token_ids.append((next_token(token_ids[-1]) + (node >= _NUM_ACCEPTED)) % 127)
            parents.append(node)
        for number in range(item.max_num_nodes - depth):
            token_ids.append(128 + number)
            parents.append(number % depth)
        tree = draft.trees.add(ssm="toy").tree
        tree.token_ids.extend(token_ids)
        tree.parents.extend(parents)
        tree.log_probs.extend([0.0] + [-0.5] * (len(token_ids) - 1))
    return ssm_pb2.DraftResult(session_id=item.session_id, item_id=item.item_id, draft=draft)


async def _serve(role: str, address: str, pass_ms: float) -> None:
    llm, ssm = InstantLlm(pass_ms / 1e3), InstantSsm()
    is_llm = role == "llm"

    def register(server: Any) -> None:
        if is_llm:
            llm_pb2_grpc.add_LlmServiceServicer_to_server(llm, server)
        else:
            ssm_pb2_grpc.add_SsmServiceServicer_to_server(ssm, server)

    names = ["specgrove.v1.LlmService" if is_llm else "specgrove.v1.SsmService"]
    server = Server(address, register, health=Health(names))
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 0.0))
