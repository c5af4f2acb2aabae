"""Generates the distillation data: the teacher continues many dialogues at once, and a finished row starts the next at once.

``specgrove ssm train`` runs one process of this per core: one thread each is faster by half than one process with all threads, and suffers
less from other programs. What an SSM learns from is recorded in the same passes: nothing is read a second time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from specgrove.training.prompts import Dialogue
from specgrove.training.shards import TOP_COUNT, Dialogues, joined, write_shard
from specgrove.training.teacher import Teacher, top_log_probs

SAMPLED_COUNT = 32  # a token is sampled from this many likeliest ones
USER_TEMPERATURE = 1.0
ANSWER_TEMPERATURES = (0.0, 0.0, 0.0, 0.0, 0.6, 0.7, 0.8, 1.0)  # a row draws one
TOP_P = 0.95


@dataclass(frozen=True, slots=True)
class GenerationLimits:
    """In tokens. ``num_rows`` is the batch."""

    num_rows: int = 96
    max_len: int = 288
    max_user_len: int = 64
    max_answer_len: int = 176
    num_tokens: int = 1_000_000
    tokens_per_shard: int = 40_000
    report_every_s: float = 5.0


class _Row:
    """One dialogue in the making: what is still to be fed, and what came out so far."""

    def __init__(self, dialogue: Dialogue, answer_temperature: float) -> None:
        self._dialogue = dialogue
        self._forced = deque(dialogue.prompt_ids)
        self._in_user_turn = dialogue.invents_user
        self._num_sampled = 0
        self._answer_temperature = answer_temperature
        self.token_ids = [self._forced.popleft()]
        self.is_made: list[int] = []

    @property
    def temperature(self) -> float:
        """For the next token."""
        return USER_TEMPERATURE if self._in_user_turn else self._answer_temperature

    def advance(self, sampled_id: int, limits: GenerationLimits, end_ids: Set[int]) -> bool:
        """Takes the next token: the sampled one unless another is due. False when the dialogue is at its end."""
        if self._forced:
            self._add(self._forced.popleft(), 0)
            return True
        if self._in_user_turn:
            end_id = self._dialogue.answer_prefix_ids[0]
            if sampled_id == end_id or sampled_id in end_ids or self._num_sampled >= limits.max_user_len:
                self._add(end_id, int(sampled_id == end_id))
                self._forced.extend(self._dialogue.answer_prefix_ids[1:])
                self._in_user_turn, self._num_sampled = False, 0
                return True
        self._add(sampled_id, 1)
        self._num_sampled += 1
        if self._in_user_turn:
            return True
        return sampled_id not in end_ids and self._num_sampled < limits.max_answer_len and self.len < limits.max_len

    def _add(self, token_id: int, is_made: int) -> None:
        self.token_ids.append(token_id)
        self.is_made.append(is_made)

    @property
    def len(self) -> int:
        """Tokens so far."""
        return len(self.token_ids)


def generate(
    teacher: Teacher,
    dialogues: Callable[[int], Iterator[Dialogue]],
    folder: Path,
    limits: GenerationLimits,
    end_ids: Set[int],
    seed: int,
    progress: Callable[[str], None],
) -> None:
    """Adds shards to ``folder`` with ``limits.num_tokens`` tokens, and no more than what one dialogue has. ``dialogues`` takes a seed."""
    num_done = 0
    source = dialogues(seed)
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)

    def new_row() -> _Row:
        # A prompt that leaves no room for an answer is passed over.
        dialogue = next(d for d in source if len(d.prompt_ids) + 32 < limits.max_len)
        return _Row(dialogue, float(rng.choice(ANSWER_TEMPERATURES)))

    rows = [new_row() for _ in range(limits.num_rows)]
    top_ids = torch.zeros(limits.num_rows, limits.max_len, TOP_COUNT, dtype=torch.int32)
    top_values = torch.zeros(limits.num_rows, limits.max_len, TOP_COUNT, dtype=torch.float16)
    hidden: torch.Tensor | None = None  # [num_rows, max_len, width], once a step has told the width
    row_ids = torch.arange(limits.num_rows)
    finished: list[Dialogues] = []
    finished_hidden: list[torch.Tensor] = []
    num_pending = num_fed = 0
    started = reported = time.monotonic()
    while num_done < limits.num_tokens:
        positions = torch.tensor([row.len - 1 for row in rows])
        step = teacher.step([row.token_ids[-1] for row in rows], positions.tolist())
        log_probs, ids = top_log_probs(step.logits, min(SAMPLED_COUNT, step.logits.shape[1]))
        if step.hidden is not None:
            if hidden is None:
                hidden = step.hidden.new_zeros(limits.num_rows, limits.max_len, step.hidden.shape[1])
            hidden[row_ids, positions] = step.hidden
        top_ids[row_ids, positions] = ids[:, :TOP_COUNT].int()
        top_values[row_ids, positions] = log_probs[:, :TOP_COUNT].half()
        temperatures = torch.tensor([row.temperature for row in rows])
        sampled = ids.gather(1, sample(log_probs, temperatures, generator)[:, None])[:, 0].tolist()
        for index, row in enumerate(rows):
            if row.advance(sampled[index], limits, end_ids):
                continue
            finished.append(_finish(row, top_ids[index], top_values[index]))
            if hidden is not None:
                finished_hidden.append(hidden[index, : row.len - 1].clone())
            num_pending += row.len - 1
            rows[index] = new_row()
        num_fed += limits.num_rows
        if num_pending >= min(limits.tokens_per_shard, limits.num_tokens - num_done):
            write_shard(folder, joined(finished), torch.cat(finished_hidden) if finished_hidden else None)
            num_done, num_pending, finished, finished_hidden = num_done + num_pending, 0, [], []
        now = time.monotonic()
        if now - reported >= limits.report_every_s or num_done >= limits.num_tokens:
            reported, rate = now, num_fed / max(1e-9, now - started)
            num_made = num_done + num_pending
            left_s = max(0, limits.num_tokens - num_made) / rate
            progress(
                f"generate: {num_made} of {limits.num_tokens} tokens in whole dialogues, {rate:.0f} tokens/s, about {left_s:.0f} s left"
            )


def sample(log_probs: torch.Tensor, temperatures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Places ``[num_rows]`` in ``log_probs`` ``[num_rows, count]`` (descending); greedy where the temperature is 0."""
    scaled = (log_probs / temperatures.clamp_min(1e-3)[:, None]).softmax(-1)
    in_nucleus = scaled.cumsum(-1) - scaled < TOP_P
    drawn = torch.multinomial(scaled * in_nucleus, 1, generator=generator)[:, 0]
    return torch.where(temperatures > 0, drawn, torch.zeros_like(drawn))


def _finish(row: _Row, top_ids: torch.Tensor, top_values: torch.Tensor) -> Dialogues:
    """The last token was not fed, so it stands as no position: it is the target of the one before."""
    num_fed = row.len - 1
    return Dialogues(
        token_ids=np.array(row.token_ids[:num_fed], np.int32),
        is_made=np.array(row.is_made, np.uint8),
        top_ids=top_ids[:num_fed].numpy().copy(),
        top_log_probs=top_values[:num_fed].numpy().copy(),
        lengths=np.array([num_fed], np.int32),
    )
