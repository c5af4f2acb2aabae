"""How good and how fast an SSM of kind ``decoder`` is, on the LLM's greedy answers (``answers``). Used by ``stages``.

It reads them, and a draft is right where it names the LLM's next token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from specgrove.training.shards import Dialogues
from specgrove.training.student import UNKNOWN_ID, draft_id_of_token

CHAIN_LEN = 4
RANKS = (1, 2, 4)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """``hit_rates[k]``: share of positions whose next token is among the drafter's k best. Lengths in tokens per step."""

    num_positions: int
    hit_rates: dict[int, float]
    in_vocab: float  # share of positions whose next token the drafter can name at all
    accepted_per_chain: float  # of CHAIN_LEN drafted tokens, mean over the steps of a decoding loop
    accepted_per_full_tree: float  # the same, had every node its four best children


@torch.inference_mode()
def evaluate(
    model: Any, draft_token_ids: npt.NDArray[np.int32], answers: Dialogues, target_vocab_size: int
) -> Evaluation:
    """Teacher-forced: the ranks of the LLM's next tokens, and from them what a decoding loop would have accepted."""
    inverse = draft_id_of_token(draft_token_ids, target_vocab_size)
    ranks_of_answers = []
    for start, length in zip(answers.starts(), answers.lengths, strict=True):
        place = slice(int(start), int(start + length))
        input_ids = torch.from_numpy(inverse[answers.token_ids[place]])
        next_ids = torch.from_numpy(inverse[answers.top_ids[place, 0]])  # greedy: the teacher's first choice
        logits = model(input_ids=input_ids[None], use_cache=False).logits[0].float()
        logits[:, UNKNOWN_ID] = float("-inf")
        of_next = logits.gather(1, next_ids[:, None])
        ranks = (logits > of_next).sum(-1)
        ranks[next_ids == UNKNOWN_ID] = len(draft_token_ids)
        ranks_of_answers.append(ranks.numpy()[answers.is_made[place].astype(bool)])
    ranks = np.concatenate(ranks_of_answers)
    return Evaluation(
        num_positions=len(ranks),
        hit_rates={rank: float((ranks < rank).mean()) for rank in RANKS},
        in_vocab=float((ranks < len(draft_token_ids)).mean()),
        accepted_per_chain=_accepted_per_step([r < 1 for r in ranks_of_answers]),
        accepted_per_full_tree=_accepted_per_step([r < max(RANKS) for r in ranks_of_answers]),
    )


def _accepted_per_step(hits_of_answers: Sequence[npt.NDArray[np.bool_]]) -> float:
    """Mean of the drafted tokens accepted per step, which also emits one bonus token."""
    num_accepted = num_steps = 0
    for hits in hits_of_answers:
        place = 0
        while place < len(hits):
            misses = np.flatnonzero(~hits[place : place + CHAIN_LEN])
            accepted = int(misses[0]) if len(misses) else len(hits[place : place + CHAIN_LEN])
            num_accepted += accepted
            num_steps += 1
            place += accepted + 1
    return num_accepted / max(1, num_steps)


@torch.inference_mode()
def level_time_ms(model: Any, num_rows: int = 4, repeats: int = 50) -> float:
    """Median time of the products of one drafting level (all weights once, bfloat16, torch), without attention."""
    weights = [p.bfloat16() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    weights.append(model.model.embed_tokens.weight.bfloat16())
    inputs = [torch.randn(num_rows, weight.shape[1]).bfloat16() for weight in weights]
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for weight, states in zip(weights, inputs, strict=True):
            F.linear(states, weight)
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times))


def report(evaluation: Evaluation, level_ms: float, num_parameters: int, print_line: Callable[[str], None]) -> None:
    """The figures, a line each."""
    print_line(f"positions             {evaluation.num_positions}")
    print_line(f"next token nameable   {evaluation.in_vocab:.3f}")
    for rank, rate in evaluation.hit_rates.items():
        print_line(f"top-{rank} hit rate        {rate:.3f}")
    print_line(f"accepted, chain of {CHAIN_LEN}  {evaluation.accepted_per_chain:.2f} tokens per step, + 1 bonus")
    print_line(
        f"accepted, full 4-ary  {evaluation.accepted_per_full_tree:.2f} (the best that a tree of depth 4 can do)"
    )
    print_line(
        f"level, 4 rows         {level_ms:.2f} ms (torch bf16 products), {num_parameters * 2 / 1e6:.1f} MB of weights"
    )
