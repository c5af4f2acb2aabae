"""Made-up routers' sides of several chats, which drive one verifier engine step by step: drafting, pausing, replaying."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_service.verifier import VerifierEngine
from specgrove.errors import SpecGroveError, StaleBaseError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SessionParams, Verdict, VerifyWork
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.verifying import GREEDY, Clock


@dataclass
class Chat:
    """One chat; trees have ``num_nodes`` nodes below the root, or there are none and ``num_steps`` steps an item."""

    session_id: str
    prompt: list[int]
    num_tokens: int
    num_nodes: int = 0
    num_steps: int = 1
    sampling: SamplingParams = GREEDY
    output: list[int] = field(default_factory=list)
    failure: SpecGroveError | None = None
    held_len: int = 0
    is_waiting: bool = False

    @property
    def has_ended(self) -> bool:
        return self.failure is not None or len(self.output) >= self.num_tokens

    def work(self, rng: random.Random, expected: Sequence[int]) -> VerifyWork:
        """The next item; its tree holds ``expected`` tokens up to some depth, and wrong ones."""
        committed = self.prompt + self.output
        num_left = self.num_tokens - len(self.output)
        tree = TokenTree.of_root(committed[-1])
        if self.num_nodes and self.output:
            likely = expected[len(self.output) : len(self.output) + rng.randrange(min(num_left, self.num_nodes + 1))]
            token_ids = [committed[-1], *likely]
            parents = list(range(-1, len(likely)))
            while len(token_ids) <= self.num_nodes:
                wrong = rng.randrange(TINY_VOCAB_SIZE)
                if (0, wrong) not in zip(parents, token_ids, strict=True):
                    token_ids.append(wrong)
                    parents.append(0)
            size = len(token_ids)
            tree = TokenTree(tuple(token_ids), tuple(parents), (0.0,) + (-1.0,) * (size - 1), (0,) * size)
        session = SessionParams(self.sampling, len(self.prompt)) if self.held_len == 0 else None
        num_steps = min(self.num_steps, num_left)
        return VerifyWork(
            self.session_id, self.held_len, tuple(committed[self.held_len :]), tree, session, num_steps=num_steps
        )

    def take(self, result: object) -> None:
        """A verdict or an error of the item under way."""
        if isinstance(result, Verdict):
            assert result.base == len(self.prompt) + len(self.output)
            self.output.extend(result.token_ids[: self.num_tokens - len(self.output)])
            self.held_len = result.base + len(result.token_ids)
            self.is_waiting = result.has_more
        else:
            assert isinstance(result, SpecGroveError), result
            self.is_waiting, self.held_len = False, 0
            if not isinstance(result, StaleBaseError):
                self.failure = result


def run_chats(
    engine: VerifierEngine,
    chats: Sequence[Chat],
    expected: Sequence[Sequence[int]],
    rng: random.Random,
    clock: Clock | None = None,
    pause: float = 0.0,
) -> None:
    """Until all have ended; each waits with probability ``pause`` before it sends its next item."""
    num_idle_turns = 0
    while not all(chat.has_ended and not chat.is_waiting for chat in chats):
        for item_id, chat in enumerate(chats):
            if chat.has_ended and not chat.is_waiting:
                engine.close_session(chat.session_id)
            elif not chat.is_waiting and rng.random() >= pause:
                engine.add(item_id, chat.work(rng, expected[item_id]))
                chat.is_waiting = True
        engine.expire_sessions()
        results = engine.step() if engine.has_work() else []
        engine.check_slots()
        for item_id, result in results:
            chats[item_id].take(result)
        if clock is not None:
            clock.now_s += 0.01
        num_idle_turns = 0 if results or engine.has_work() else num_idle_turns + 1
        assert num_idle_turns < 1000, "nobody gets on"
    for chat in chats:
        engine.close_session(chat.session_id)
