"""Candidates of the CPU's kernel against torch in float64: which ones, their logits, and that rows are on their own."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
import torch

from specgrove.kernels import threads
from specgrove.kernels.device_memory import AttentionHeads
from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.rows import plain_rows
from specgrove.kernels.torch_linear import TorchLinear
from specgrove.program.backend import Candidates, KvCaches
from specgrove.program.ops import Embed
from specgrove.program.output_ops import Shortlist, TakeRows
from specgrove.program.program import BufferSpec, Program
from tests.kernels.one_op import Backend, in_float64, on_cpu

SIZE = 72  # not a multiple of what is added up at once


def candidates(
    x: torch.Tensor,
    scored: torch.Tensor,
    scores: torch.Tensor,
    table: torch.Tensor | None,
    num_candidates: int,
    on: Backend,
    token_ids: torch.Tensor | None = None,
    soft_cap: float | None = None,
) -> Candidates:
    """Of rows ``x``, with scores ``scored @ scores.T``."""
    num_rows = len(x)
    linear = PackedLinear(scores) if on is on_cpu else TorchLinear(scores, None)
    op = Shortlist(0, 0 if table is None else 1, linear, table, num_candidates, token_ids, soft_cap)
    ops = (Embed(0, x, 1.0, 0, num_rows), Embed(1, scored, 1.0, 0, num_rows), TakeRows((0, 1)), op)
    buffers = (BufferSpec(x.shape[1]), BufferSpec(scored.shape[1]))
    rows = replace(plain_rows(num_rows), asked_rows=array("q", range(num_rows)), choices=[None] * num_rows)
    cache = torch.zeros(num_rows, 1, 1)
    found = on(Program(ops, buffers, AttentionHeads(1, 1, 1), 1)).run(rows, KvCaches((cache,), (cache,))).candidates
    assert found is not None
    return found


def example(
    num_rows: int, num_ids: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, what scores are made from, the scores' weights, and a table; whole numbers, so that scores are exact and many equal."""
    generator = torch.Generator().manual_seed(num_ids)
    x, table = torch.randn(num_rows, SIZE, generator=generator), torch.randn(num_ids, SIZE, generator=generator)
    scored, scores = (torch.randint(-2, 3, (count, 8), generator=generator).float() for count in (num_rows, num_ids))
    return x, scored, scores, table.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("num_ids", "num_candidates"), [(9, 9), (63, 1), (64, 5), (1000, 12), (1000, 64), (5003, 16)])
def test_candidates_are_the_references(isa: str, dtype: torch.dtype, num_ids: int, num_candidates: int) -> None:
    for soft_cap in (None, 9.0):
        given = (*example(19, num_ids, dtype), num_candidates)
        found, wanted = (candidates(*given, on, soft_cap=soft_cap) for on in (on_cpu, in_float64))
        assert torch.equal(found.token_ids.sort().values, wanted.token_ids.sort().values)
        assert (found.logits - wanted.logits).abs().max() <= 2e-5
        assert (found.logits.diff() <= 0).all()
        assert (found.log_sum_exp - wanted.log_sum_exp).abs().max() <= 2e-5


def test_of_equal_ones_the_first(isa: str) -> None:
    """By scores, by which candidates are chosen, and by logits, by which they are in order."""
    x, scored = torch.ones(1, 4), torch.ones(1, 1)
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, -1.0, 2.0] * 40)[:, None]
    found = candidates(x, scored, scores, torch.ones(len(scores), 4), 100, on_cpu)
    best = [place for place in range(320) if place % 8 in (1, 3)]
    wanted = sorted(best + [place for place in range(320) if place % 8 in (2, 4, 5, 7)][:20])
    assert found.token_ids.tolist() == [wanted]
    assert torch.equal(found.token_ids, candidates(x, scored, scores, torch.ones(320, 4), 100, in_float64).token_ids)


def test_without_a_table_the_scores_are_the_logits(isa: str) -> None:
    ids = torch.arange(0, 3000, 3)
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    scores = torch.randn(1000, 32, generator=torch.Generator().manual_seed(2))
    for on in (on_cpu, in_float64):
        found = candidates(x, x, scores, None, 10, on, ids)
        best = (x.double() @ scores.double().T).topk(10)
        assert torch.equal(found.token_ids.long(), ids[best.indices])
        assert (found.logits - best.values).abs().max() <= 1e-5
        assert (found.log_sum_exp - (x.double() @ scores.double().T).logsumexp(1)).abs().max() <= 1e-5


def test_numbers_that_are_none_are_chosen_last(isa: str) -> None:
    scores = torch.arange(200.0)[:, None]
    scores[150:] = torch.nan
    for on in (on_cpu, in_float64):
        found = candidates(torch.ones(1, 1), torch.ones(1, 1), scores, None, 160, on)
        assert found.token_ids[0].tolist() == [*range(149, -1, -1), *range(150, 160)]
        found = candidates(torch.full((1, 1), torch.nan), torch.ones(1, 1), scores, torch.ones(200, 1), 3, on)
        assert found.token_ids[0].tolist() == [147, 148, 149]
        assert found.logits.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_bits_do_not_depend_on_the_others(isa: str, dtype: torch.dtype) -> None:
    x, scored, scores, table = example(40, 700, dtype)
    whole = candidates(x, scored, scores, table, 20, on_cpu)
    for rows in (slice(0, 1), slice(3, 9), slice(15, 33)):
        part = candidates(x[rows].contiguous(), scored[rows].contiguous(), scores, table, 20, on_cpu)
        assert torch.equal(part.token_ids, whole.token_ids[rows])
        assert torch.equal(part.logits, whole.logits[rows])
        assert torch.equal(part.log_sum_exp, whole.log_sum_exp[rows])


@pytest.mark.parametrize("num_rows", [1, 3])
def test_rows_have_the_same_bits_with_any_number_of_threads(isa: str, num_rows: int) -> None:
    """Threads share a row's ids out; tiles of scores and groups of them end at different ids."""
    x, scored, scores, table = example(num_rows, 20_011, torch.bfloat16)
    found = []
    for num_threads in (1, 2, 3):
        threads.set_num_threads(num_threads)
        found.append(candidates(x, scored, scores, table, 20, on_cpu))
    for other in found[1:]:
        assert torch.equal(other.token_ids, found[0].token_ids)
        assert torch.equal(other.logits, found[0].logits)
        assert torch.equal(other.log_sum_exp, found[0].log_sum_exp)
