"""The native decoder step alone: what it refuses, what it keeps alive, callers from several threads, rows on their own.

That its bits are those of the kernels called one by one is tested with models, in tests/models/test_decoder_step.py.
"""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

import pytest
import torch

from specgrove.kernels.attention import AttentionBatch
from specgrove.kernels.decoder_step import DecoderStep, StepNorm
from tests.kernels.step_parts import (
    HEAD_DIM,
    HIDDEN,
    INNER,
    MAX_POSITIONS,
    NUM_SLOTS,
    SHAPE,
    caches,
    layer,
    linear,
)
from tests.waiting import LIMIT_S


def _step(num_layers: int = 2) -> DecoderStep:
    torch.manual_seed(0)
    return DecoderStep(SHAPE, [layer() for _ in range(num_layers)])


def _prompt(start: int, end: int) -> tuple[torch.Tensor, torch.Tensor, AttentionBatch]:
    """Positions, slots and attention of the rows ``start`` to ``end`` of one sequence, whose slots go down from 17."""
    positions = torch.arange(start, end, dtype=torch.int32)
    slots = 17 - torch.arange(end, dtype=torch.int32)
    batch = AttentionBatch(
        context_slots=slots,
        context_offsets=torch.tensor([0, end], dtype=torch.int32),
        tree_slots=torch.empty(0, dtype=torch.int32),
        tree_offsets=torch.zeros(2, dtype=torch.int32),
        row_seq=torch.zeros(end - start, dtype=torch.int32),
        row_context_len=positions + 1,
        row_masks=torch.zeros(end - start, 1, dtype=torch.int64),
    )
    return positions, slots[start:].contiguous(), batch


def _run(step: DecoderStep, hidden: torch.Tensor, chunk_len: int) -> torch.Tensor:
    k_caches, v_caches, out = caches(), caches(), hidden.clone()
    for start in range(0, len(hidden), chunk_len):
        end = min(start + chunk_len, len(hidden))
        step(out[start:end], *_prompt(start, end), k_caches, v_caches)
    return out


def test_a_rows_bits_do_not_depend_on_the_others(isa: str) -> None:
    step, hidden = _step(), torch.randn(11, HIDDEN)
    expected = _run(step, hidden, 1)
    assert expected.isfinite().all()
    assert (expected - hidden).abs().max() > 0.1
    for chunk_len in (2, 5, 11):
        assert torch.equal(_run(step, hidden, chunk_len), expected)


def test_the_step_keeps_alive_what_it_reads() -> None:
    step, hidden = _step(), torch.randn(3, HIDDEN)
    expected = _run(step, hidden, 3)
    gc.collect()
    others = [torch.full((HIDDEN,), torch.nan) for _ in range(200)]  # where freed tensors would have been
    assert torch.equal(_run(step, hidden, 3), expected)
    assert len(others) == 200


def test_callers_from_several_threads_do_not_disturb_one_another() -> None:
    step, inputs = _step(), [torch.randn(num_rows, HIDDEN) for num_rows in (1, 4, 11)]
    expected = [_run(step, hidden, 4) for hidden in inputs]
    wrong: list[int] = []

    def call(number: int) -> None:
        wrong.extend(number for _ in range(50) if not torch.equal(_run(step, inputs[number], 4), expected[number]))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LIMIT_S)
    assert not wrong


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("positions", MAX_POSITIONS), ("positions", -1), ("slots", NUM_SLOTS), ("slots", -1)],
)
def test_places_that_are_not_there_are_refused_before_anything_is_written(name: str, wrong: int) -> None:
    step, k_caches, v_caches, hidden = _step(), caches(), caches(), torch.randn(3, HIDDEN)
    positions, slots, batch = _prompt(0, 3)
    {"positions": positions, "slots": slots}[name][2] = wrong
    before = hidden.clone()
    with pytest.raises(ValueError, match=f"{name} must be from 0 to"):
        step(hidden, positions, slots, batch, k_caches, v_caches)
    assert torch.equal(hidden, before)
    assert not any(cache.any() for cache in k_caches + v_caches)


def test_rows_and_caches_that_do_not_fit_are_named() -> None:
    step, (positions, slots, batch) = _step(), _prompt(0, 3)
    hidden, keys = torch.zeros(3, HIDDEN), caches()
    small = [cache[:17] for cache in keys]
    for arguments, message in (
        ((hidden[:, :-1], positions, slots, batch, keys, keys), "hidden"),
        ((hidden.double(), positions, slots, batch, keys, keys), "hidden"),
        ((hidden[:2], positions, slots, batch, keys, keys), "positions"),
        ((hidden[:2], positions[:2], slots[:2], batch, keys, keys), "row_seq"),
        ((hidden, positions.long(), slots, batch, keys, keys), "positions"),
        ((hidden, positions, slots, batch, keys[:1], keys), "each of the 2 layers"),
        ((hidden, positions, slots, batch, keys, [keys[0], keys[1].float()]), "k_caches and v_caches"),
        ((hidden, positions, slots, batch, keys, [keys[0], keys[1][:-1]]), "k_caches and v_caches"),
        ((hidden, positions, slots - 3, batch, small, small), "slot that the cache doesn't have"),
    ):
        with pytest.raises(ValueError, match=message):
            step(*arguments)  # type: ignore[arg-type]


def test_layers_that_do_not_fit_are_named() -> None:
    good = layer()
    norm = good.attention_norm
    for shape, wrong, message in (
        (SHAPE, replace(good, out=linear(HIDDEN, HIDDEN + 1)), "out must have 48 inputs"),
        (SHAPE, replace(good, up=linear(INNER, HIDDEN)), "up must have"),
        (SHAPE, replace(good, down=linear(HIDDEN, INNER + 1)), "up must have"),
        (SHAPE, replace(good, mlp_norm=None), "needs an mlp_norm"),
        (SHAPE, replace(good, mlp_norm=StepNorm(torch.rand(HIDDEN + 1), None)), "scale must"),
        (SHAPE, replace(good, mlp_norm=StepNorm(torch.rand(HIDDEN), torch.rand(HIDDEN))), "RMS norm has no shift"),
        (SHAPE, replace(good, window=0), "window"),
        (SHAPE, replace(good, cos_sin=torch.randn(4, HEAD_DIM + 2)), "cos_sin"),
        (replace(SHAPE, residual="post_norm"), replace(good, mlp_out_norm=norm), "no norms of what is added"),
        (replace(SHAPE, num_kv_heads=3), good, "not supported"),
        (replace(SHAPE, head_dim=300), good, "not supported"),
        (replace(SHAPE, alibi_slopes=torch.zeros(3)), good, "alibi_slopes"),
    ):
        with pytest.raises(ValueError, match=message):
            DecoderStep(shape, [wrong])
    with pytest.raises(ValueError, match="at least one layer"):
        DecoderStep(SHAPE, [])
