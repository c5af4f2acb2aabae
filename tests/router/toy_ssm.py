"""The toy SSM service: drafts what the toy model says, and what it does not."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from specgrove.errors import InvalidRequestError, StaleBaseError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Draft, DraftedTree, DraftWork, SsmTime
from specgrove.machine.compute_place import ComputePlace
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from specgrove.wire import works
from specgrove.wire.compute_place import place_to_proto
from specgrove.wire.drafts import draft_to_proto, draft_work_from_proto
from tests.router.toy_language import VOCAB_SIZE, toy_next, toy_tokenizer_json
from tests.router.toy_sessions import ToySessions
from tests.router.toy_sides import ToyDrafterSession
from tests.serving.task_streams import TaskStreams


class ToySsm(ssm_pb2_grpc.SsmServiceServicer):
    """Drafts random trees that often hold the toy model's choice; ``spoil`` makes them malformed."""

    def __init__(self, names: Sequence[str] = ("toy-a", "toy-b"), hit_rate: float = 0.7) -> None:
        self.sessions = ToySessions()
        self.streams = TaskStreams(self._draft, ssm_pb2.DraftResult, ssm_pb2.DraftResponse, forget=self.sessions.close)
        self.gate = asyncio.Event()  # a draft waits for it
        self.gate.set()
        self.closed: list[str] = []
        self.asked: list[DraftWork] = []
        self.names = tuple(names)
        self.tokenizer = Tokenizer(toy_tokenizer_json(), {}, None)
        self.mode = "beam"
        self.protocol_version = works.PROTOCOL_VERSION
        self.forget_probability = 0.0
        self.hidden_layers: tuple[int, ...] = ()
        self.hidden_window = 0
        self.hidden_size = 2
        self.num_row_top_k = 0
        self.delay_s = 0.0
        self.took_ms = 0.5  # each SSM, as it says
        self.draft_ahead = ssm_pb2.DRAFT_AHEAD_UNSPECIFIED
        self.place = ComputePlace()
        self.spoil: Callable[[TokenTree], TokenTree] = lambda tree: tree
        self._hit_rate = hit_rate
        self._random = random.Random(1)

    async def draft(self, work: DraftWork) -> Draft:
        self.asked.append(work)
        if self._random.random() < self.forget_probability:
            self.sessions.pop(work.session_id, None)
        if work.base == 0 and not work.new_token_ids:
            raise InvalidRequestError.of("new_token_ids", "base 0 must come with all committed tokens")
        if unknown := sorted(set(work.ssms) - set(self.names)):
            raise InvalidRequestError.of("ssms", f"{unknown} are not in the pool")
        before = self.sessions.get(work.session_id)
        try:
            session = self.sessions.take_in(work.session_id, work.base, work.new_token_ids)
        except StaleBaseError:
            if before is not None and before.is_under_way:  # two items at once: nobody knows which comes first
                self.sessions.close(work.session_id)
            raise
        tokens = session.token_ids
        try:
            await self.gate.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            self.sessions.check(work.session_id, session)
        finally:
            session.is_under_way = False
        names = [name for name in self.names if not work.ssms or name in work.ssms]
        trees = [DraftedTree(n, self.spoil(self._tree(tokens, work))) for n in names if work.shape.max_num_nodes]
        return Draft(len(tokens), tuple(trees), 1.0, times=tuple(SsmTime(name, self.took_ms) for name in names))

    def is_there(self, ssms: tuple[str, ...]) -> bool:
        return not ssms or not set(ssms).isdisjoint(self.names)

    def session(self, session_id: str) -> ToyDrafterSession:
        return ToyDrafterSession(session_id, self)

    async def close(self, session_id: str) -> None:
        self.sessions.close(session_id)
        self.closed.append(session_id)

    def _tree(self, tokens: list[int], work: DraftWork) -> TokenTree:
        paths: list[list[int]] = [[]]
        nodes: list[tuple[int, int, float]] = [(tokens[-1], -1, 0.0)]
        seen = set()
        for _ in range(work.shape.max_num_nodes):
            parent = self._random.randrange(len(paths))
            path = paths[parent]
            is_hit = self._random.random() < self._hit_rate
            token = toy_next([*tokens, *path], 0) if is_hit else self._random.randrange(VOCAB_SIZE)
            if len(path) >= work.shape.max_depth or (parent, token) in seen:
                continue
            seen.add((parent, token))
            paths.append([*path, token])
            nodes.append((token, parent, -0.1 - self._random.random()))
        token_ids, parents, log_probs = zip(*nodes, strict=True)
        return TokenTree(token_ids, parents, log_probs, (0,) * len(nodes))

    async def _draft(self, item: ssm_pb2.DraftItem) -> AsyncGenerator[ssm_pb2.DraftResult, None]:
        draft = await self.draft(draft_work_from_proto(item))
        yield ssm_pb2.DraftResult(session_id=item.session_id, item_id=item.item_id, draft=draft_to_proto(draft))

    def Draft(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        return self.streams.serve(request_iterator, context)

    async def GetModelInfo(self, request: Any, context: Any) -> ssm_pb2.SsmServiceGetModelInfoResponse:  # noqa: N802
        infos = [
            ssm_pb2.SsmInfo(
                name=name,
                mode=self.mode,
                vocab_sha256=self.tokenizer.vocab_sha256,
                hidden_layers=self.hidden_layers,
                hidden_window=self.hidden_window,
                hidden_size=self.hidden_size if self.hidden_layers else 0,
                num_row_top_k=self.num_row_top_k,
            )
            for name in self.names
        ]
        return ssm_pb2.SsmServiceGetModelInfoResponse(
            ssms=infos,
            protocol_version=self.protocol_version,
            draft_ahead=self.draft_ahead,
            place=place_to_proto(self.place),
        )

    async def GetVocabulary(self, request: Any, context: Any) -> ssm_pb2.GetVocabularyResponse:  # noqa: N802
        return ssm_pb2.GetVocabularyResponse(token_checksums=self.tokenizer.token_checksums())

    async def Warmup(self, request: Any, context: Any) -> ssm_pb2.SsmServiceWarmupResponse:  # noqa: N802
        return ssm_pb2.SsmServiceWarmupResponse()

    async def GetLoad(self, request: Any, context: Any) -> ssm_pb2.SsmServiceGetLoadResponse:  # noqa: N802
        return ssm_pb2.SsmServiceGetLoadResponse()

    async def CloseSession(self, request: Any, context: Any) -> ssm_pb2.SsmServiceCloseSessionResponse:  # noqa: N802
        await self.close(request.session_id)
        return ssm_pb2.SsmServiceCloseSessionResponse()
