"""What a program's ops must be like for any backend to run them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from specgrove.kernels import _native
from specgrove.program.cpu import CpuProgram
from specgrove.program.cuda_launches import Launches
from specgrove.program.op import Changed, Held, Op, Read, Widths, Written
from specgrove.program.ops import AddPositions, Embed, Input, RotateStore
from specgrove.program.output_ops import KeepHidden, TakeRows
from specgrove.program.program import Program
from specgrove.program.tensor_group import OneRank
from specgrove.program.torch_backend import TorchProgram
from tests.program.tiny import GOOD, HIDDEN, VOCAB_SIZE, caches, program

TABLE = torch.zeros(VOCAB_SIZE, HIDDEN)
EMBED = Embed(0, TABLE, 1.0, 0, VOCAB_SIZE)


@pytest.mark.parametrize(
    "op", [EMBED, AddPositions(0, TABLE), Input(0, HIDDEN), RotateStore(5, 4, 0, program().heads, None), TakeRows((0,))]
)
def test_ops_of_all_rows_stand_before_rows_are_taken(op: Op) -> None:
    """Their ids, positions and slots are those of all rows: behind it they would be other rows'."""
    good = program()
    assert replace(good, ops=(EMBED, op)).ops[1] is op
    with pytest.raises(ValueError, match=f"{type(op).__name__} must stand before TakeRows"):
        replace(good, ops=(EMBED, TakeRows((0,)), op))


@pytest.mark.parametrize(("places", "num_kept"), [((1,), 2), ((1,), 1), ((0, 0), 2), ((0,), 0), ((), 1)])
def test_hidden_states_are_handed_out_at_every_place_once(places: tuple[int, ...], num_kept: int) -> None:
    ops = (EMBED, *(KeepHidden(0, place, HIDDEN) for place in places))
    with pytest.raises(ValueError, match=f"must be at {num_kept} from 0 on"):
        replace(program(), ops=ops, num_kept=num_kept)
    order = tuple(KeepHidden(0, place, HIDDEN) for place in (1, 0))
    assert replace(program(), ops=(EMBED, *order), num_kept=2).num_kept == 2


def test_how_wide_an_input_is() -> None:
    good = program()
    assert good.input_width is None
    assert replace(good, ops=(Input(0, HIDDEN),)).input_width == HIDDEN


@dataclass(frozen=True, slots=True)
class Unheard(Op):
    """That no backend has."""

    out: Written
    parts: tuple[Read, ...]
    x: Changed

    def leaves(self, held: Held) -> Widths:
        return {self.out: held[self.x]} if self.parts else {}


def test_an_op_says_what_it_reads_and_writes() -> None:
    op = Unheard(3, (0, 2), 1)
    assert op.read == (0, 2, 1)
    assert op.written == (3, 1)
    untold = Program((EMBED, Unheard(1, (), 0)), program().buffers, program().heads, num_layers=0)
    with pytest.raises(ValueError, match="Unheard: how wide buffer 1 becomes is not said"):
        untold.widths()


@dataclass(frozen=True, slots=True)
class Elsewhere(Op):
    """Says how wide a buffer becomes that it doesn't write."""

    x: Changed

    def leaves(self, held: Held) -> Widths:
        return {1: HIDDEN}


def test_an_op_leaves_nothing_where_it_does_not_write() -> None:
    wrong = Program((EMBED, Elsewhere(0)), program().buffers, program().heads, num_layers=0)
    with pytest.raises(ValueError, match="Elsewhere: buffer 1 gets a width, but is none that it writes"):
        wrong.widths()


def test_a_backend_without_an_op_says_so() -> None:
    lacking = Program((EMBED, Unheard(1, (0,), 0)), program().buffers, program().heads, num_layers=0)
    with pytest.raises(ValueError, match=r"^op 1 of the program, Unheard: the CPU's kernels have no op Unheard$"):
        CpuProgram(lacking)
    with pytest.raises(ValueError, match="the kernels for GPUs have no op Unheard"):
        Launches(OneRank(), torch.device("cpu"), lambda unit: None).of(lacking.ops[1], lacking.widths()[1])
    in_torch = TorchProgram(lacking, torch.device("cpu"), torch.float32, OneRank(), lambda unit: None)
    with pytest.raises(NotImplementedError, match="torch has no op Unheard"):
        in_torch.run(GOOD, caches())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Clip needs a field limit"),
        ({"limit": "much"}, "Clip: the field limit is of another type"),
        ({"limit": 1.0, "lowest": 0.5}, "Clip has no field lowest"),
    ],
)
def test_native_code_takes_the_fields_that_it_knows(fields: dict[str, _native.OpField], message: str) -> None:
    native = _native.Program([HIDDEN], vocab_size=None, num_positions=None, has_caches=False)
    with pytest.raises(ValueError, match=message):
        native.add("Clip", x=_native.Buffer(0, HIDDEN), **fields)
    with pytest.raises(ValueError, match="there is no buffer 1"):
        native.add("Clip", x=_native.Buffer(1, HIDDEN), limit=1.0)
    for width in (HIDDEN + 1, -1):
        with pytest.raises(ValueError, match=f"Clip: buffer 0 has room for {HIDDEN} numbers of a row, not for {width}"):
            native.add("Clip", x=_native.Buffer(0, width), limit=1.0)


def test_native_code_takes_no_tensor_of_another_device() -> None:
    native = _native.Program([HIDDEN], vocab_size=None, num_positions=None, has_caches=False)
    table = torch.zeros(VOCAB_SIZE, HIDDEN, device="meta")
    with pytest.raises(ValueError, match="table must be a tensor of the CPU's"):
        native.add("AddPositions", x=_native.Buffer(0, HIDDEN), table=table)
