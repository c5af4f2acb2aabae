"""The rounds of a serving benchmark: all contestants answer the same prompts in turn, again and again."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bandwidth import ReadBandwidth
from benchmarks.contestants import Contestant
from benchmarks.prompts import load_prompts
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
class Prompts:
    """Token ids; no two calls get the same, so that no cache of prompts helps anyone."""

    tokenizer: Tokenizer
    chats: list[list[int]]
    long: list[int]
    """The chats one after the other."""

    @staticmethod
    def of(folder: Path) -> Prompts:
        """For the model of a folder: chats of one question each."""
        tokenizer = Tokenizer.from_folder(folder)
        texts = load_prompts(NUM_PROMPTS, sets=("alpaca",))
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
) -> list[Row]:
    """A row of every contestant that takes so large a batch. Each comes with the bytes that a step of it reads."""
    taking_part = [(contestant, num_bytes) for contestant, num_bytes in contestants if contestant.max_batch >= batch]
    rounds: list[list[_Round]] = [[] for _ in taking_part]
    num_prompts = batch if batch > 1 else arguments.prompts_per_round
    if num_prompts * (arguments.rounds + 1) > len(prompts.chats):
        raise ValueError(f"{arguments.rounds} rounds of {num_prompts} prompts are more than there are prompts")
    prompt_times_ms: list[list[float]] = [[] for _ in taking_part]
    for number in range(-1, arguments.rounds):
        first = (number + 1) * num_prompts
        groups = [prompts.chats[start : start + batch] for start in range(first, first + num_prompts, batch)]
        for (contestant, _), own_rounds, prompt_ms in zip(taking_part, rounds, prompt_times_ms, strict=True):
            gb_per_s = bandwidth.measure()  # also a pause, in which the one before comes to rest
            if batch == 1:
                started_s = time.perf_counter()
                contestant.run([prompts.long_prompt(number + 1)], 1)
                prompt_ms.append((time.perf_counter() - started_s) * 1e3)
                contestant.forget_steps()
            started_s = time.perf_counter()
            # The round before the first warms everything up and is not counted.
            num_tokens = sum(contestant.run(group, 8 if number < 0 else arguments.max_tokens) for group in groups)
            rate = num_tokens / (time.perf_counter() - started_s)
            gb_per_s = (gb_per_s + bandwidth.measure()) / 2
            if number < 0:
                contestant.forget_steps()
            else:
                own_rounds.append(_Round(rate, gb_per_s))
                name = f"{contestant.name} {contestant.precision}"
                progress(f"batch {batch}, round {number + 1} of {arguments.rounds}: {name} {rate:.1f} tokens/s")
    return [
        _row(contestant, num_bytes, batch, own_rounds, prompt_ms)
        for (contestant, num_bytes), own_rounds, prompt_ms in zip(taking_part, rounds, prompt_times_ms, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Round:
    tokens_per_s: float
    gb_per_s: float
    """What the machine read at that time."""


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
