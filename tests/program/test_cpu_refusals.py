"""What the CPU's backend refuses, by name and before anything is written: rows, caches, ops and heads."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from specgrove.kernels.rows import PassRows
from specgrove.kernels.torch_linear import TorchLinear
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.backend import KvCaches
from specgrove.program.cpu import CpuProgram
from specgrove.program.op import Op
from specgrove.program.ops import Activate, AddNorm, Attend, Embed, HeadNorm, Multiply, Norm, RotateStore
from specgrove.program.output_ops import Choose, TakeRows
from specgrove.program.program import Program
from tests.program.tiny import (
    GOOD,
    HIDDEN,
    INNER,
    MAX_POSITIONS,
    NUM_SLOTS,
    VOCAB_SIZE,
    caches,
    linear,
    program,
)

BAD_ROWS: list[tuple[PassRows, str]] = [
    (replace(GOOD, token_ids=array("q", [1, VOCAB_SIZE, 3])), "token ids must be from 0 to 69, got 70"),
    (replace(GOOD, token_ids=array("q", [1, -1, 3])), "token ids must be from 0 to 69, got -1"),
    (replace(GOOD, asked_rows=array("q", [0, 1, 3])), "row"),
    (replace(GOOD, asked_rows=array("q", [0, 2, 1])), "rising"),
    (replace(GOOD, asked_rows=array("q", [0, 1, 1])), "rising"),
    (replace(GOOD, slots=array("i", [0, 1, NUM_SLOTS])), "slots must be from 0 to 19, got 20"),
    (replace(GOOD, slots=array("i", [0, 1, -1])), "slots must be from 0 to 19, got -1"),
    (replace(GOOD, positions=array("i", [0, 1, MAX_POSITIONS])), "positions must be from 0 to 31, got 32"),
    (replace(GOOD, positions=array("i", [0, 1, -1])), "positions must be from 0 to 31, got -1"),
    (replace(GOOD, context_slots=array("i", [0, 1, NUM_SLOTS])), "a slot that the cache doesn't have"),
    (replace(GOOD, choices=[None]), "asked rows"),
    (replace(GOOD, slots=array("i", [0, 1])), "of 3 rows"),
    (replace(GOOD, positions=array("i", [0])), "of 3 rows"),
    (replace(GOOD, row_seq=array("i", [0])), "of 3 rows"),
    (replace(GOOD, row_masks=array("q", [1, 2, 4, 8])), "of 3 rows"),
    (replace(GOOD, tree_offsets=array("i", [0])), "of 1 sequences"),
    (replace(GOOD, slots=array("q", [0, 1, 2])), "arrays of int64"),
    (replace(GOOD, token_ids=array("q")), "needs a row"),
]


@pytest.mark.parametrize(("rows", "message"), BAD_ROWS)
def test_rows_that_do_not_fit_are_refused_before_anything_is_written(rows: PassRows, message: str) -> None:
    executable, own = CpuProgram(program()), caches()
    with pytest.raises(ValueError, match=message):
        executable.run(rows, own)
    assert not any(cache.any() for cache in own.keys + own.values)
    assert torch.equal(executable.run(GOOD, own).logits, CpuProgram(program()).run(GOOD, caches()).logits)


def test_caches_that_do_not_fit_are_named() -> None:
    executable, (first, second) = CpuProgram(program()), caches().keys
    for keys, values, message in (
        ((first,), (first, second), "each of the 2 layers"),
        ((first, second), (first, second.float()), "keys and values"),
        ((first, second), (first, second[:-1]), "keys and values"),
        ((first[:, :1], second[:, :1]), (first, second), "keys and values"),
    ):
        with pytest.raises(ValueError, match=message):
            executable.run(GOOD, KvCaches(keys, values))


def changed(kind: type[Op], change: Callable[[Program, Op], Op]) -> Program:
    """The program with its first op of a kind changed."""
    good = program()
    place = next(place for place, op in enumerate(good.ops) if isinstance(op, kind))
    return replace(good, ops=(*good.ops[:place], change(good, good.ops[place]), *good.ops[place + 1 :]))


SCALE = torch.ones(HIDDEN)
BAD_OPS: list[tuple[type[Op], dict[str, object], str]] = [
    (
        Multiply,
        {"linear": linear(3, HIDDEN + 1)},
        "op 2 of the program, Multiply: the linear must have 48 inputs, got 49",
    ),
    (Multiply, {"linear": linear(300, HIDDEN)}, "room for 160 numbers of a row, not for 300"),
    (Multiply, {"linear": linear(95, HIDDEN)}, "must hold 96 numbers of a row, but holds 95"),
    (Multiply, {"linear": TorchLinear(torch.zeros(96, HIDDEN), None)}, "TorchLinear is no linear of the CPU's"),
    (Multiply, {"out": 1}, "can't be read and written at the same time"),
    (Multiply, {"out": 7}, "there is no buffer 7"),
    (Multiply, {"x": 6}, "nothing has been written to buffer 6"),
    (Norm, {"weights": NormWeights(torch.ones(HIDDEN + 1))}, "scale must have the shape"),
    (Norm, {"weights": NormWeights(SCALE, SCALE)}, "an RMS norm has no shift"),
    (AddNorm, {"delta": 4}, "buffer 4 must hold 48 numbers of a row, but holds"),
    (RotateStore, {"cos_sin": torch.zeros(4, 14)}, "cos_sin must have the shape"),
    (RotateStore, {"layer": 2}, "caches of 2 layers, not of layer 2"),
    (Attend, {"window": 0}, "window must be at least 1, got 0"),
    (Attend, {"alibi_slopes": torch.zeros(3)}, "alibi_slopes must have the shape"),
    (Activate, {"size": INNER - 1}, "must hold 158 numbers of a row, but holds 160"),
    (Activate, {"activation": "tanh"}, "activation must be one of silu, gelu, gelu_tanh, relu, got 'tanh'"),
    (Choose, {"widths": (VOCAB_SIZE + 1,)}, "this rank has 71 columns"),
    (TakeRows, {"buffers": ()}, "nothing has been written to buffer"),
]


@pytest.mark.parametrize(("kind", "changes", "message"), BAD_OPS)
def test_ops_that_do_not_fit_together_are_named(kind: type[Op], changes: dict[str, object], message: str) -> None:
    wrong = changed(kind, lambda whole, op: replace(op, **changes))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        CpuProgram(wrong)


@pytest.mark.parametrize(("first_head", "num_heads"), [(7, 2), (-1, 2), (9, 0), (0, -1)])
def test_heads_that_are_not_there_are_named(first_head: int, num_heads: int) -> None:
    norm = HeadNorm(2, torch.ones(12), 1e-5, first_head, num_heads, 12)
    good = program()
    place = next(place for place, op in enumerate(good.ops) if isinstance(op, RotateStore))
    with pytest.raises(ValueError, match=f"no {num_heads} heads of size 12 from head {first_head} on"):
        CpuProgram(replace(good, ops=(*good.ops[:place], replace(norm, x=4), *good.ops[place:])))


def test_heads_that_are_not_supported_are_named() -> None:
    good = program()
    for changes in ({"num_kv_heads": 3}, {"head_dim": 300}):
        with pytest.raises(ValueError, match="not supported"):
            CpuProgram(replace(good, heads=replace(good.heads, **changes)))
    odd = Program(
        (
            Embed(0, torch.zeros(5, 9 * 3), 1.0, 0, 5),
            RotateStore(1, 0, 0, replace(good.heads, num_heads=1, num_kv_heads=1, head_dim=9), torch.zeros(4, 9)),
        ),
        good.buffers,
        replace(good.heads, num_heads=1, num_kv_heads=1, head_dim=9),
        num_layers=1,
    )
    with pytest.raises(ValueError, match="heads of size 9 can't be rotated: the size must be even"):
        CpuProgram(odd)
