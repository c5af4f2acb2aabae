"""The rounds of a serving benchmark: all contestants answer the same prompts in turn, again and again."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contestants import Contestant
from benchmarks.prompts import code_prompts, load_prompts
from specgrove.kernels.bandwidth import ReadBandwidth
from specgrove.tokenizer import Tokenizer

NUM_PROMPTS = 100  # as many as there are without the prompt sets
PROMPT_LEN = 512


@dataclass(frozen=True, slots=True)
class Row:
    """One contestant at one batch size. ``spread`` is the slowest and the fastest round, in tokens per second."""

    contestant: str
    precision: str
    speculation: str
    batch: int
    tokens_per_s: float
    spread: tuple[float, float]
    step_ms: float | None
    """Mean time of a forward pass, where the contestant tells it."""
    tokens_per_step: float | None
    """Of one request."""
    limit_share: float | None
    """Time that reading the weights takes, at the bandwidth measured before and after the round, of the time of a step with all overheads:
    the median of the rounds. ``None`` where steps aren't known.
    """
    prompt_ms: float | None
    """From a prompt of 512 tokens to its first token, at batch 1."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A contestant that could not do a batch size."""

    contestant: str
    precision: str
    speculation: str
    batch: int
    reason: str


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids; no two calls get the same, so that no cache of prompts helps anyone."""

    tokenizer: Tokenizer
    chats: list[list[int]]
    long: list[int]
    """The chats one after the other."""

    @staticmethod
    def of(folder: Path, prompt_set: str) -> Prompts:
        """For the model of a folder: chats of one question each."""
        tokenizer = Tokenizer.from_folder(folder)
        texts = code_prompts() if prompt_set == "code" else load_prompts(NUM_PROMPTS, sets=(prompt_set,))
        chats = [list(tokenizer.encode_chat([("user", text)])) for text in texts]
        return Prompts(tokenizer, chats, [token_id for chat in chats for token_id in chat])

    def long_prompt(self, number: int) -> list[int]:
        """512 tokens."""
        start = number * 97 % (len(self.long) - PROMPT_LEN)
        return self.long[start : start + PROMPT_LEN]


def measure(
    contestants: Sequence[tuple[Contestant, int]],
    batch: int,
    prompts: Prompts,
    arguments: argparse.Namespace,
    bandwidth: ReadBandwidth,
    progress: Callable[[str], None],
) -> list[Row | Failure]:
    """A row of every contestant that takes so large a batch. Each comes with the bytes that a step of it reads.

    One that fails takes no further part; what it measured before doesn't count.
    """
    taking_part = [(contestant, num_bytes) for contestant, num_bytes in contestants if contestant.max_batch >= batch]
    turns = [_Turns(contestant, num_bytes, batch) for contestant, num_bytes in taking_part]
    num_prompts = batch if batch > 1 else arguments.prompts_per_round
    if num_prompts * (arguments.rounds + 1) > len(prompts.chats):
        raise ValueError(f"{arguments.rounds} rounds of {num_prompts} prompts are more than there are prompts")
    for number in range(-1, arguments.rounds):
        first = (number + 1) * num_prompts
        groups = [prompts.chats[start : start + batch] for start in range(first, first + num_prompts, batch)]
        # The round before the first warms everything up and is not counted.
        max_tokens = 8 if number < 0 else arguments.max_tokens
        for own in turns:
            if own.failure is None:
                long_prompt = prompts.long_prompt(number + 1) if batch == 1 else None
                said = own.take(groups, long_prompt, max_tokens, bandwidth, is_warm_up=number < 0)
                progress(f"batch {batch}, round {number + 1} of {arguments.rounds}: {own.name} {said}")
    return [own.row() if own.failure is None else own.failure for own in turns]


@dataclass(frozen=True, slots=True)
class _Round:
    tokens_per_s: float
    gb_per_s: float
    """What the machine read at that time."""


class _Turns:
    """One contestant's rounds at one batch size."""

    def __init__(self, contestant: Contestant, num_bytes: int, batch: int) -> None:
        self.name = f"{contestant.name} {contestant.precision}"
        self.failure: Failure | None = None
        self._contestant, self._num_bytes, self._batch = contestant, num_bytes, batch
        self._rounds: list[_Round] = []
        self._prompt_ms: list[float] = []

    def take(
        self,
        groups: Sequence[list[list[int]]],
        long_prompt: list[int] | None,
        max_tokens: int,
        bandwidth: ReadBandwidth,
        *,
        is_warm_up: bool,
    ) -> str:
        """One round; returns how it went."""
        contestant = self._contestant
        gb_per_s = bandwidth.measure()  # also a pause, in which the one before comes to rest
        try:
            if long_prompt is not None:
                started_s = time.perf_counter()
                contestant.run([long_prompt], 1)
                self._prompt_ms.append((time.perf_counter() - started_s) * 1e3)
                contestant.forget_steps()
            started_s = time.perf_counter()
            num_tokens = sum(contestant.run(group, max_tokens) for group in groups)
            rate = num_tokens / (time.perf_counter() - started_s)
        except Exception as error:  # the others' rows are worth as much without it
            reason = str(error) or type(error).__name__
            self.failure = Failure(contestant.name, contestant.precision, contestant.speculation, self._batch, reason)
            return f"failed: {reason}"
        if is_warm_up:
            contestant.forget_steps()
            return "is warm"
        self._rounds.append(_Round(rate, (gb_per_s + bandwidth.measure()) / 2))
        return f"{rate:.1f} tokens/s"

    def row(self) -> Row:
        """The medians."""
        return _row(self._contestant, self._num_bytes, self._batch, self._rounds, self._prompt_ms)


def _row(
    contestant: Contestant, num_bytes: int, batch: int, rounds: Sequence[_Round], prompt_ms: Sequence[float]
) -> Row:
    step_ms, tokens_per_step = contestant.steps()
    contestant.forget_steps()
    if tokens_per_step is None and contestant.speculation == "none":
        tokens_per_step = 1.0
    rates = [a_round.tokens_per_s for a_round in rounds]
    limit_share = None
    if tokens_per_step is not None:
        tokens_per_gb = statistics.median(a_round.tokens_per_s / a_round.gb_per_s for a_round in rounds)
        limit_share = tokens_per_gb / batch / tokens_per_step * num_bytes / 1e9
    return Row(
        contestant=contestant.name,
        precision=contestant.precision,
        speculation=contestant.speculation,
        batch=batch,
        tokens_per_s=statistics.median(rates),
        spread=(min(rates), max(rates)),
        step_ms=step_ms,
        tokens_per_step=tokens_per_step,
        limit_share=limit_share,
        prompt_ms=statistics.median(prompt_ms[1:]) if len(prompt_ms) > 1 else None,  # the first warms up
    )
