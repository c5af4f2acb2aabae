"""The LLM's greedy answers to held-out prompts, made once and kept. Used by ``stages``; both kinds of SSM are measured on them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Set
from pathlib import Path

import numpy as np
import torch

from specgrove.training.shards import TOP_COUNT, Dialogues, joined, write_shard
from specgrove.training.teacher import Teacher, top_log_probs

_REPORT_EVERY_S = 5.0


def greedy_answers(
    teacher: Teacher,
    prompts: Sequence[Sequence[int]],
    answer_len: int,
    end_ids: Set[int],
    folder: Path,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Writes the LLM's greedy answers to prompts in token ids, as many as the teacher has rows, as a shard of ``folder``."""
    rows = [list(prompt) for prompt in prompts]
    num_fed = max(len(prompt) for prompt in prompts) + answer_len
    reported = time.monotonic()
    records: list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]] = [[] for _ in rows]
    for place in range(num_fed):
        # A finished row is fed its last token again and again; nothing of it is kept.
        last = [row[min(place, len(row) - 1)] for row in rows]
        step = teacher.step(last, [place] * len(rows))
        values, ids = top_log_probs(step.logits, TOP_COUNT)
        if time.monotonic() - reported >= _REPORT_EVERY_S:
            reported = time.monotonic()
            progress(f"evaluate: the LLM's answers, token {place + 1} of {num_fed}")
        for index, row in enumerate(rows):
            if place >= len(row):
                continue
            hidden = None if step.hidden is None else step.hidden[index]
            records[index].append((ids[index].int(), values[index].half(), hidden))
            is_last = place == len(row) - 1
            if is_last and len(row) < len(prompts[index]) + answer_len and row[-1] not in end_ids:
                row.append(int(ids[index, 0]))
    parts, states = [], []
    for row, record, prompt in zip(rows, records, prompts, strict=True):
        num = len(row) - 1
        made = np.arange(num) >= len(prompt) - 1
        parts.append(
            Dialogues(
                token_ids=np.array(row[:num], np.int32),
                is_made=made.astype(np.uint8),
                top_ids=torch.stack([ids for ids, _, _ in record[:num]]).numpy(),
                top_log_probs=torch.stack([values for _, values, _ in record[:num]]).numpy(),
                lengths=np.array([num], np.int32),
            )
        )
        states += [hidden for _, _, hidden in record[:num] if hidden is not None]
    write_shard(folder, joined(parts), torch.stack(states) if states else None)
