"""Clients of all kinds, and what they must get: each output is compared with an undisturbed fleet's. Used by ``chaos`` and ``soak``.

Who stays gets the whole output, token for token. Who leaves, or has no time, has got a beginning of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from random import Random
from typing import Any

from benchmarks.chaos.fleet import Fleet
from benchmarks.chaos.links import Link
from specgrove.client import AsyncClient
from specgrove.client.answers import completion_of
from specgrove.client.output import Chunk, Completion
from specgrove.client.retries import RetryPolicy
from specgrove.errors import (
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    SpecGroveError,
    UnavailableError,
)
from specgrove.loop.request import SpeculationOptions

# Kills come faster than anywhere else, and a busy machine starts services slowly: who gives up is no finding here.
# A router that is full asks for a minute at most.
PATIENT = RetryPolicy(max_num_retries=500, first_delay_s=0.1, max_delay_s=60.0)
_KINDS = {"stays": 10, "reads slowly": 2, "cancels": 2, "vanishes": 1, "has no time": 1, "many at once": 1}
_NUM_AT_ONCE = 30
# For what is not complete when the faults have ended. Before, a busy machine may be so slow to start services that nothing gets on.
_LIMIT_S = 600.0
# Who has no time left does not try again, whatever it was.
_OUT_OF_TIME = (DeadlineExceededError, UnavailableError, ResourceExhaustedError)


@dataclass(frozen=True, slots=True)
class Case:
    """A request."""

    prompt: tuple[int, ...]
    params: dict[str, Any]
    wants_progress: bool
    """Whether the stream tells how far the prompt is read: it is read again in replays."""


def cases(seed: int, num_cases: int) -> list[Case]:
    """Prompts of 3 to 300 tokens, outputs of 20 to 160, greedy and sampled, with all that must survive a seam."""
    random = Random(seed)
    found = []
    for number in range(num_cases):
        prompt = tuple(random.randrange(32, 127) for _ in range(random.choice((3, 20, 60, 300))))
        params: dict[str, Any] = {"max_tokens": random.choice((20, 60, 160)), "seed": number, "ignore_eos": True}
        kind = number % 6
        if kind != 0:
            params["temperature"] = 1.0
        if kind == 2:
            params |= {"repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.7, "min_tokens": 15}
        elif kind == 3:
            params |= {"num_log_probs": 2, "num_prompt_log_probs": 1}
        elif kind == 4:
            params |= {"regex": "([a-z]{2,6} ){4,20}end", "ignore_eos": False}
        elif kind == 5:
            params |= {"stop": ["ab", "zz", "q.", "x{"], "speculation": SpeculationOptions(disabled=True)}
        found.append(Case(prompt, params, wants_progress=number % 4 < 2))
    return found


@dataclass
class Outcomes:
    """What became of requests."""

    counts: Counter[str]
    """By what clients did, e.g. ``stays: identical``."""
    faults: list[str]
    """Outputs that are not what they must be, in words."""

    @property
    def num_outputs(self) -> int:
        """Outputs that were compared."""
        return sum(self.counts.values())


class Load:
    """``num_clients`` at a time, until ``stop``."""

    def __init__(self, fleet: Fleet, todo: list[Case], seed: int, num_clients: int) -> None:
        self._fleet = fleet
        self._cases = todo
        self._seed = seed
        self._num_clients = num_clients
        self._expected: list[Completion] = []
        self._is_over = False
        self._limits: set[asyncio.Timeout] = set()  # of requests under way
        self.outcomes = Outcomes(Counter(), [])

    async def learn(self) -> None:
        """The undisturbed outputs. Before any fault."""
        async with AsyncClient(self._fleet.front_addresses, retry=PATIENT) as client:
            slots = asyncio.Semaphore(6)

            async def one(case: Case) -> Completion:
                async with slots:
                    return await client.complete(case.prompt, **case.params)

            self._expected = list(await asyncio.gather(*(one(case) for case in self._cases)))

    async def run(self) -> None:
        """Until ``stop``; every request that was begun is brought to its end."""
        async with AsyncClient(self._fleet.front_addresses, retry=PATIENT) as client, asyncio.TaskGroup() as clients:
            for number in range(self._num_clients):
                clients.create_task(self._client(client, Random(self._seed * 1000 + number)))

    def stop(self) -> None:
        """No new requests, now that the faults have ended. Those under way are to be complete in some minutes."""
        self._is_over = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time() + _LIMIT_S)

    async def _client(self, client: AsyncClient, random: Random) -> None:
        while not self._is_over:
            (kind,) = random.choices(list(_KINDS), weights=list(_KINDS.values()))
            number = random.randrange(len(self._cases))
            if kind == "many at once":
                several = [random.randrange(len(self._cases)) for _ in range(_NUM_AT_ONCE)]
                await asyncio.gather(*(self._one(client, kind, one, random) for one in several))
            else:
                await self._one(client, kind, number, random)

    async def _one(self, client: AsyncClient, kind: str, number: int, random: Random) -> None:
        chunks: list[Chunk] = []
        case, expected = self._cases[number], self._expected[number]
        num_wanted = random.randrange(1, 20)
        try:
            async with self.limited():
                if kind == "vanishes":
                    await self._vanish(case, num_wanted, chunks)
                    problem = beginning_problem(chunks, expected)
                else:
                    timeout_s = random.uniform(0.05, 1.0) if kind == "has no time" else None
                    stream = client.generate(
                        case.prompt, timeout_s=timeout_s, prompt_progress=case.wants_progress, **case.params
                    )
                    await _read(stream, chunks, kind, num_wanted, random)
                    is_whole = bool(chunks) and chunks[-1].finish_reason is not None
                    is_bound_to_be = kind not in ("cancels", "has no time")
                    problem = (
                        whole_problem(chunks, expected)
                        if is_whole or is_bound_to_be
                        else beginning_problem(chunks, expected)
                    )
        except TimeoutError:
            problem = f"lost: not complete {_LIMIT_S:g} s after the last fault, with {_num_tokens(chunks)} tokens"
        except SpecGroveError as error:
            problem = f"lost: {type(error).__name__}: {error}"
        self.outcomes.counts[f"{kind}: {'identical' if problem is None else problem.partition(':')[0]}"] += 1
        if problem is not None:
            self.outcomes.faults.append(f"{kind}, case {number}: {problem}")

    @contextlib.asynccontextmanager
    async def limited(self) -> AsyncIterator[asyncio.Timeout]:
        """For one request: without a limit till ``stop``."""
        async with asyncio.timeout(_LIMIT_S if self._is_over else None) as limit:
            self._limits.add(limit)
            try:
                yield limit
            finally:
                self._limits.discard(limit)

    async def _vanish(self, case: Case, num_wanted: int, chunks: list[Chunk]) -> None:
        """A client whose connection is reset in the middle of an output."""
        router = self._fleet.shape.routers[len(case.prompt) % self._fleet.shape.num_routers]
        link = Link(self._fleet.addresses[router])
        async with AsyncClient(await link.start(), retry=None) as client:
            with contextlib.suppress(UnavailableError, InternalError):
                async for chunk in client.generate(case.prompt, **case.params):
                    chunks.append(chunk)
                    if len(chunks) == num_wanted:
                        link.cut()
        await link.close()


async def _read(
    stream: AsyncGenerator[Chunk, None], chunks: list[Chunk], kind: str, num_wanted: int, random: Random
) -> None:
    async with contextlib.aclosing(stream):
        with contextlib.suppress(*(_OUT_OF_TIME if kind == "has no time" else ())):
            async for chunk in stream:
                chunks.append(chunk)
                if kind == "cancels" and len(chunks) == num_wanted:
                    return
                if kind == "reads slowly":
                    await asyncio.sleep(random.choice((0.0, 0.01, 0.05, 0.3)))


def _num_tokens(chunks: list[Chunk]) -> int:
    return sum(len(chunk.tokens) for chunk in chunks)


def beginning_problem(chunks: list[Chunk], expected: Completion) -> str | None:
    """What is wrong with an output that was left."""
    found = [(token.token_id, token.text) for chunk in chunks for token in chunk.tokens]
    whole = [(token.token_id, token.text) for token in expected.tokens]
    text = "".join(chunk.text for chunk in chunks)
    if found == whole[: len(found)] and expected.text.startswith(text):
        return None
    return _difference(found, whole)


def whole_problem(chunks: list[Chunk], expected: Completion) -> str | None:
    """What is wrong with an output that should be complete."""
    if not chunks or chunks[-1].finish_reason is None:
        return "lost: the stream ended without a finish reason"
    completion = completion_of(chunks)
    found = [(token.token_id, token.text) for token in completion.tokens]
    whole = [(token.token_id, token.text) for token in expected.tokens]
    if found != whole:
        return _difference(found, whole)
    for name in ("text", "tokens_log_probs", "finish_reason", "stop_reason", "prompt_tokens"):
        if name == "tokens_log_probs":
            ours, theirs = ([token.log_probs for token in one.tokens] for one in (completion, expected))
        else:
            ours, theirs = getattr(completion, name), getattr(expected, name)
        if ours != theirs:
            return f"changed: {name} is {str(ours)[:200]}, not {str(theirs)[:200]}"
    for name in ("num_prompt_tokens", "num_output_tokens", "seed"):
        if getattr(completion.usage, name) != getattr(expected.usage, name):
            return f"changed: usage.{name}"
    return None


def _difference(found: list[tuple[int, str]], whole: list[tuple[int, str]]) -> str:
    place = next((at for at, (ours, theirs) in enumerate(zip(found, whole, strict=False)) if ours != theirs), None)
    if place is None:
        kind = "lost" if len(found) < len(whole) else "repeated"
        return f"{kind}: {len(found)} tokens of {len(whole)}"
    # Tokens that came before come again where what follows is what was told a little earlier.
    rest = found[place : place + 8]
    again = any(whole[start : start + len(rest)] == rest for start in range(max(place - 64, 0), place))
    return f"{'repeated' if again and len(rest) == 8 else 'changed'}: from token {place} on"
