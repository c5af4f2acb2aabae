"""What one visitor of the page has asked and got. No Gradio here: ``page`` owns a ``Conversation`` for each visitor.

Invariant: a conversation's messages alternate, and an answer that was stopped or failed is in them with what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from specgrove.client.output import Chunk, OutputToken, StepDetails, Usage
from specgrove.client.wire import GenerateParams
from specgrove.loop.output import FinishReason
from specgrove.loop.request import SpeculationOptions

Step = tuple[tuple[str, ...], ...]
"""A step's tokens, each as the names of the SSMs that drafted it; without a name it is the LLM's own."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The page's settings. ``ssms`` are the chosen ones of ``known_ssms``; ``None`` are all, and with none of them nothing is drafted.

    ``further`` are parameters that the page shows nothing of.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    seed: int | None = None
    system: str = ""
    ssms: tuple[str, ...] | None = None
    known_ssms: tuple[str, ...] = ()
    further: GenerateParams = field(default_factory=GenerateParams)

    def params(self, *, seed: int | None = None, is_speculative: bool = True) -> GenerateParams:
        """For the client. ``seed`` comes before the one that was typed."""
        ssms = () if self.ssms is None or set(self.ssms) == set(self.known_ssms) else self.ssms
        is_disabled = not is_speculative or self.ssms == ()
        chosen = GenerateParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            seed=self.seed if seed is None else seed,
            speculation=SpeculationOptions(disabled=is_disabled, ssms=() if is_disabled else ssms),
            step_details=True,
        )
        return {**self.further, **chosen}


@dataclass(slots=True)
class Answer:
    """An answer as it comes. Owned by whoever asked for it; its task ``follow`` alone adds to it."""

    tokens: list[OutputToken] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    text: str = ""
    last_tree: StepDetails | None = None
    """Of the last step in which something was drafted."""
    last_tree_step: int = 0
    """The number of that step, from 1."""
    own_token: OutputToken | None = None
    """What the LLM added to that tree's accepted path by itself, if the output got there."""
    num_drafted: int = 0
    usage: Usage | None = None
    finish_reason: FinishReason | None = None
    note: str = ""
    """What ended it before its time."""
    first_s: float | None = None
    last_s: float = 0.0

    async def follow(self, chunks: AsyncGenerator[Chunk, None]) -> None:
        """Takes in all chunks. Cancelling it ends the request everywhere."""
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                self.add(chunk, time.monotonic())

    def add(self, chunk: Chunk, now_s: float) -> None:
        """The next chunk, which came at ``now_s``."""
        self.text += chunk.text
        self.usage, self.finish_reason = chunk.usage, chunk.finish_reason
        if not chunk.tokens:
            return
        self.first_s = self.first_s or now_s
        self.last_s = now_s
        self.tokens += chunk.tokens
        details = chunk.step_details
        sources = tuple(token.drafted_by for token in chunk.tokens)
        if details is None or not details.nodes:
            self.steps += [(source,) for source in sources]
            return
        self.steps.append(sources)
        self.num_drafted += len(details.nodes) - 1
        self.last_tree, self.last_tree_step = details, len(self.steps)
        num_accepted = sum(node.is_accepted for node in details.nodes)
        self.own_token = chunk.tokens[num_accepted] if len(chunk.tokens) > num_accepted else None

    @property
    def num_accepted(self) -> int:
        """Tokens that were drafted."""
        return sum(bool(token.drafted_by) for token in self.tokens)

    @property
    def tokens_per_step(self) -> float:
        """0 before the first step."""
        return len(self.tokens) / len(self.steps) if self.steps else 0.0

    @property
    def tokens_per_s(self) -> float:
        """As the router measured it, or before the end as it came here."""
        if self.usage is not None:
            return self.usage.tokens_per_s
        if self.first_s is None or self.last_s <= self.first_s:
            return 0.0
        return (len(self.tokens) - 1) / (self.last_s - self.first_s)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and what came of it."""

    question: str
    answer: Answer


class Conversation:
    """One visitor's. At most one answer is under way."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._answering: asyncio.Task[None] | None = None

    @property
    def is_answering(self) -> bool:
        """Whether an answer is under way."""
        return self._answering is not None and not self._answering.done()

    def messages(self, question: str, system: str) -> list[tuple[str, str]]:
        """All that was said, and a new question."""
        said = [("system", system)] if system.strip() else []
        for turn in self.turns:
            if turn.answer.text:
                said += [("user", turn.question), ("assistant", turn.answer.text)]
        return [*said, ("user", question)]

    def begin(self, answer: Answer, chunks: AsyncGenerator[Chunk, None]) -> asyncio.Task[None]:
        """Follows an answer until its end, or ``stop``."""
        self._answering = asyncio.create_task(answer.follow(chunks))
        return self._answering

    def stop(self) -> None:
        """Ends the answer that is under way, if there is one."""
        if self._answering is not None:
            self._answering.cancel()
