"""The toy services of ``benchmarks.router``: they know the next token from the last one, keep no sessions, and answer at once.

    python -m benchmarks.router_toys llm ADDRESS PASS_MS [MODEL_FOLDER]
    python -m benchmarks.router_toys ssm ADDRESS

What they say of themselves is what the toys of the router's tests say. Their streams are written out here, so that they cost little
and stay the same whatever becomes of the services' own. With a folder the LLM service has the tokenizer that is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.tokenizer import TOKENIZER_FILE_NAMES, Tokenizer
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc, token_tree_pb2
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm

_MAX_MODEL_LEN = 100_000
_NUM_ACCEPTED = 2
_MAX_NUM_RESULTS = 64  # in a message
_PIECE_BYTES = 1 << 20
_CHUNK_LEN = 256


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
    """An item: the committed length, the last committed token, and steps that are left.

    ``chunk_starts`` are of the prompt's chunks whose log-probabilities are still to be told.
    """

    item: llm_pb2.VerifyItem
    base: int
    token_id: int
    num_steps: int
    chunk_starts: list[int] = field(default_factory=list)

    def step(self) -> llm_pb2.VerifyResult:
        """Two nodes of a tree are right; where there is none, a step is one token."""
        if self.chunk_starts:
            progress = _told(self.item, self.chunk_starts.pop(0))
            return llm_pb2.VerifyResult(session_id=self.item.session_id, item_id=self.item.item_id, progress=progress)
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


def _chunk_starts(item: llm_pb2.VerifyItem) -> range:
    is_asked = item.HasField("session") and item.session.HasField("num_prompt_log_probs")
    return range(1, item.session.prompt_len, _CHUNK_LEN) if is_asked else range(0)


def _told(item: llm_pb2.VerifyItem, start: int) -> llm_pb2.PromptProgress:
    end = min(start + _CHUNK_LEN, item.session.prompt_len)
    top = [
        token_tree_pb2.TokenLogProb(token_id=40 + i, log_prob=-2.0) for i in range(item.session.num_prompt_log_probs)
    ]
    entry = token_tree_pb2.LogProbs(log_prob=-1.0, rank=3, top=top)
    return llm_pb2.PromptProgress(num_tokens=end, log_probs_start=start, log_probs=[entry] * (end - start))


class InstantLlm(ToyLlm):
    """Answers all that is under way, again and again."""

    def __init__(self, pass_s: float, folder: Path | None = None) -> None:
        super().__init__()
        self._pass_s = pass_s
        self._folder = folder

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
                work = _UnderWay(item, base, item.tree.token_ids[0], item.num_steps or 1)
                work.chunk_starts.extend(_chunk_starts(item))
                under_way[item.item_id] = work
            for item_id in request.finish_early_item_ids:
                if item_id in under_way:
                    under_way[item_id].num_steps = 1
            if under_way:
                has_work.set()

    async def GetModelInfo(self, request: Any, context: Any) -> llm_pb2.LlmServiceGetModelInfoResponse:  # noqa: N802
        info = await super().GetModelInfo(request, context)
        info.max_model_len = _MAX_MODEL_LEN
        if self._folder is not None:
            tokenizer = Tokenizer.from_folder(self._folder)
            info.vocab_size, info.vocab_sha256 = tokenizer.vocab_size, tokenizer.vocab_sha256
        return info

    async def GetTokenizer(self, request: Any, context: Any) -> Any:  # noqa: N802
        if self._folder is None:
            async for piece in super().GetTokenizer(request, context):
                yield piece
            return
        for name in TOKENIZER_FILE_NAMES:
            if (path := self._folder / name).exists():
                content = path.read_bytes()
                for start in range(0, len(content), _PIECE_BYTES):
                    piece = content[start : start + _PIECE_BYTES]
                    yield llm_pb2.GetTokenizerResponse(file_name=name, content=piece)


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


async def _serve(role: str, address: str, pass_ms: float, folder: Path | None) -> None:
    llm, ssm = InstantLlm(pass_ms / 1e3, folder), InstantSsm()
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
        own = [*sys.argv[3:], *("0", "")[len(sys.argv[3:]) :]]
        asyncio.run(_serve(sys.argv[1], sys.argv[2], float(own[0]), Path(own[1]) if own[1] else None))
