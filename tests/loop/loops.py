"""The loop in one process with toys, for the tests beside it: policies whose shapes are known, and verifiers that remember."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from specgrove.errors import UnavailableError
from specgrove.loop.drafter_side import Drafter
from specgrove.loop.output import Step
from specgrove.loop.planning import TreePolicy
from specgrove.loop.request import GenerationRequest
from specgrove.loop.speculation import Session
from specgrove.loop.verifying import Verifier
from specgrove.loop.works import TreeShape, Verdict, VerifyWork
from tests.router.toy_language import VOCAB_SIZE
from tests.router.toy_services import CONTEXT_LEN, ToyLlm

PROMPT = (1, 2, 3)


class FixedShape:
    def __init__(self, shape: TreeShape) -> None:
        self._shape = shape

    def shape(self) -> TreeShape:
        return self._shape

    def observe(self, step: Step) -> None:
        pass


class Dying(ToyLlm):
    """Is lost now and then, and has forgotten everything when it is back."""

    async def _step(self, work: VerifyWork) -> Verdict:
        if self._random.random() < 0.4:
            self.sessions.clear()
            raise UnavailableError("gone")
        return await super()._step(work)


def session_of(
    request: GenerationRequest, drafters: Sequence[Drafter], verifier: Verifier, policy: TreePolicy
) -> Session:
    """With the toys' vocabulary and context."""
    return Session(request, drafters, verifier, policy, vocab_size=VOCAB_SIZE, max_model_len=CONTEXT_LEN)


async def run(
    drafters: Sequence[Drafter],
    verifier: Verifier,
    num_tokens: int = 60,
    shape: TreeShape = TreeShape(12, 5),  # noqa: B008
    **fields: Any,
) -> tuple[list[int], list[Step]]:
    request = GenerationRequest("s", PROMPT, num_tokens, **fields)
    async with session_of(request, drafters, verifier, FixedShape(shape)) as session:
        steps = [step async for step in session]
    return [token.token_id for step in steps for token in step.tokens], steps


class Counting(ToyLlm):
    """Remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[VerifyWork] = []

    def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict, None]:
        self.asked.append(work)
        return super().verify(work)


class Planned(FixedShape):
    """Shapes as planned, the last one again and again; remembers what it observed."""

    def __init__(self, *shapes: TreeShape) -> None:
        super().__init__(shapes[-1])
        self.planned = list(shapes)
        self.num_asked = 0
        self.observed: list[Step] = []

    def shape(self) -> TreeShape:
        self.num_asked += 1
        return self.planned.pop(0) if self.planned else self._shape

    def observe(self, step: Step) -> None:
        self.observed.append(step)


async def run_planned(
    verifier: Verifier, drafters: Sequence[Drafter], policy: Planned, num_tokens: int = 60
) -> list[int]:
    async with session_of(GenerationRequest("s", PROMPT, num_tokens), drafters, verifier, policy) as session:
        return [token.token_id async for step in session for token in step.tokens]
