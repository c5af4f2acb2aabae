"""What a program's ops must be like for any backend to run them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from specgrove.program.ops import AddPositions, Embed, Input, KeepHidden, Op, RotateStore, TakeRows
from tests.program.tiny import HIDDEN, VOCAB_SIZE, program

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
