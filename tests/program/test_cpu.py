"""The CPU's backend: rows on their own, what it keeps alive, callers from several threads, segments, hidden states."""

from __future__ import annotations

import gc
import threading
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from specgrove.kernels.sampling import ChoiceParams, RowChoice, choose
from specgrove.models.decoder.parameters import NormWeights
from specgrove.models.decoder.sharding import Shard
from specgrove.program.backend import KvCaches
from specgrove.program.cpu import CpuProgram
from specgrove.program.op import Op
from specgrove.program.ops import Embed, LoadUnit, Norm, SumRanks
from specgrove.program.output_ops import Choose, KeepHidden, TakeRows
from specgrove.program.program import Program
from specgrove.program.stores import MappedWeights, MemoryWeights
from tests.program.tiny import (
    FORMS,
    GOOD,
    HIDDEN,
    VOCAB_SIZE,
    Kind,
    caches,
    chain,
    linear,
    program,
)
from tests.waiting import LIMIT_S

TOKENS = [5, 9, 17, 40, 69, 1, 2, 9, 44, 3, 3]


def run(executable: CpuProgram, num_tokens: int, chunk_len: int) -> torch.Tensor:
    """Logits of every token of one sequence, so many at a time."""
    own, logits = caches(), []
    whole = chain(TOKENS[:num_tokens], [None] * num_tokens)
    for start in range(0, num_tokens, chunk_len):
        end = min(start + chunk_len, num_tokens)
        rows = replace(
            whole,
            token_ids=whole.token_ids[start:end],
            positions=whole.positions[start:end],
            slots=whole.slots[start:end],
            row_seq=whole.row_seq[start:end],
            row_context_len=whole.row_context_len[start:end],
            row_masks=whole.row_masks[start:end],
            asked_rows=array("q", range(end - start)),
            choices=[None] * (end - start),
        )
        logits.append(executable.run(rows, own).logits)
    return torch.cat(logits)


def test_a_rows_bits_do_not_depend_on_the_others(isa: str) -> None:
    executable = CpuProgram(program())
    expected = run(executable, len(TOKENS), 1)
    assert expected.isfinite().all()
    assert expected.std() > 0.1
    for chunk_len in (2, 5, 11):
        assert torch.equal(run(executable, len(TOKENS), chunk_len), expected)


def capped(program: Program, soft_cap: float) -> Program:
    """The program with a soft cap of its logits."""
    (*ops, choose) = program.ops
    assert isinstance(choose, Choose)
    return replace(program, ops=(*ops, replace(choose, soft_cap=soft_cap)))


def test_soft_capped_logits(isa: str) -> None:
    """From linear to saturated: within two roundings of the float64 formula."""
    plain = run(CpuProgram(program()), len(TOKENS), 4).double()
    for soft_cap in (0.02, 0.7, 30.0):
        wanted = soft_cap * torch.tanh(plain / soft_cap)
        error = run(CpuProgram(capped(program(), soft_cap)), len(TOKENS), 4) - wanted
        assert (error.abs() <= 4e-7 * wanted.abs()).all()


def test_choices_are_made_from_soft_capped_logits(isa: str) -> None:
    """Greedy ones as well, where several logits are the cap; sampled ones have the noise's share of the capped logits."""
    for soft_cap in (1e-3, 0.7):
        executable, own = CpuProgram(capped(program(), soft_cap)), caches()
        logits = executable.run(chain(TOKENS, [None] * len(TOKENS)), own).logits
        asked = [
            RowChoice(ChoiceParams(temperature=0.0 if row % 2 else 0.8, seed=row), row) for row in range(len(TOKENS))
        ]
        wanted = [choose(logits[row], choice.params, row) for row, choice in enumerate(asked)]
        assert list(executable.run(chain(TOKENS, asked), own).choices) == wanted


def test_what_is_read_is_kept_alive() -> None:
    executable = CpuProgram(program())
    expected = run(executable, 5, 5)
    gc.collect()
    others = [torch.full((HIDDEN,), torch.nan) for _ in range(200)]  # where freed tensors would have been
    assert torch.equal(run(executable, 5, 5), expected)
    assert len(others) == 200


def test_callers_from_several_threads_do_not_disturb_one_another() -> None:
    executable, lengths = CpuProgram(program()), (1, 4, 11)
    expected = [run(executable, length, 4) for length in lengths]
    wrong: list[int] = []

    def call(number: int) -> None:
        right = expected[number]
        wrong.extend(number for _ in range(50) if not torch.equal(run(executable, lengths[number], 4), right))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LIMIT_S)
    assert not wrong


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8", "int4"])
def test_segments_have_the_bits_of_one_call(isa: str, form: str, kind: Kind, tmp_path: Path) -> None:
    """A model that is told of every unit of its weights before it is used, whose weights lie in a file."""
    store = MappedWeights(tmp_path, max_bytes=1)
    units: list[int] = []

    def will_run(unit: int) -> None:
        units.append(unit)
        store.will_run(unit)

    whole, streamed = CpuProgram(program(form, kind)), CpuProgram(program(form, kind, store=store), will_run=will_run)
    own, others = (caches(dtype=torch.float32) for _ in range(2))
    rows = chain(TOKENS, [None] * len(TOKENS))
    assert torch.equal(streamed.run(rows, others).logits, whole.run(rows, own).logits)
    assert all(map(torch.equal, own.keys + own.values, others.keys + others.values))
    assert units == [0, 1, 2, 3]


def test_units_are_loaded_in_turn_where_nothing_is_asked(tmp_path: Path) -> None:
    units: list[int] = []
    streamed = CpuProgram(program(store=MappedWeights(tmp_path, max_bytes=1)), will_run=units.append)
    out = streamed.run(replace(GOOD, asked_rows=array("q"), choices=[]), caches())
    assert units == [0, 1, 2, 3]
    assert (list(out.choices), out.logits.shape) == ([], (0, VOCAB_SIZE))


class Echo:
    """A group of two whose other rank has the same."""

    rank, size = 0, 2

    def __init__(self) -> None:
        self.sums: list[torch.Tensor] = []

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        self.sums.append(part.clone())
        return part + part

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        return torch.cat([part, part[:, : widths[1]]], dim=1)


def test_sums_over_ranks_are_of_what_a_buffer_holds() -> None:
    table, scale = torch.randn(VOCAB_SIZE, HIDDEN), torch.rand(HIDDEN)
    good = program()
    ops: list[Op] = [
        Embed(0, table[:40], 2.0, 0, VOCAB_SIZE),
        SumRanks(0),
        TakeRows((0,)),
        SumRanks(0),
        Norm(1, 0, "rms", NormWeights(scale), 1e-5),
        Choose(1, linear(VOCAB_SIZE, HIDDEN), (VOCAB_SIZE, 3)),
    ]
    group = Echo()
    ranked = CpuProgram(replace(good, ops=tuple(ops), num_layers=0), group)
    none = KvCaches((), ())
    rows = replace(chain([5, 39, 40], [None]), asked_rows=array("q", [1]))
    out = ranked.run(rows, none)
    looked_up = 2 * torch.stack([table[5], table[39], torch.zeros(HIDDEN)])
    assert torch.equal(group.sums[0], looked_up)
    assert torch.equal(group.sums[1], 2 * looked_up[1:2])
    assert out.logits.shape == (1, VOCAB_SIZE + 3)
    assert list(out.choices) == []
    ranked.run(replace(rows, asked_rows=array("q"), choices=[]), none)
    assert len(group.sums) == 3  # none of no rows


def test_hidden_states_go_from_stage_to_stage(isa: str) -> None:
    first, last = (
        CpuProgram(program(shard=Shard(0, 1, layer, layer + 1, is_first_stage=layer == 0, is_last_stage=layer == 1)))
        for layer in range(2)
    )
    rows = chain(TOKENS, [None] * len(TOKENS))
    (hidden,) = first.run(rows, caches(1)).hidden
    before = hidden.clone()
    assert torch.equal(last.run(rows, caches(1), hidden).logits, CpuProgram(program()).run(rows, caches()).logits)
    assert torch.equal(hidden, before)


def test_hidden_states_are_handed_out() -> None:
    """Of all rows, or of those that are asked where they come behind the choice of rows."""
    scale, table = torch.rand(HIDDEN), torch.randn(VOCAB_SIZE, HIDDEN)
    ops: list[Op] = [
        Embed(0, table, 1.0, 0, VOCAB_SIZE),
        KeepHidden(0, 1, HIDDEN),
        TakeRows((0,)),
        KeepHidden(0, 0, HIDDEN),
        Norm(1, 0, "rms", NormWeights(scale), 1e-5),
        Choose(1, linear(VOCAB_SIZE, HIDDEN), (VOCAB_SIZE,)),
    ]
    executable = CpuProgram(replace(program(), ops=tuple(ops), num_layers=0, num_kept=2))
    rows = replace(chain([5, 39, 40], [None]), asked_rows=array("q", [2]))
    asked, every = executable.run(rows, KvCaches((), ())).hidden
    assert torch.equal(asked, table[[40]])
    assert torch.equal(every, table[[5, 39, 40]])


def test_a_program_needs_its_input() -> None:
    stage = CpuProgram(program(shard=Shard(0, 1, 1, 2, is_first_stage=False)))
    for hidden, message in (
        (None, "takes hidden states from outside"),
        (torch.zeros(2, HIDDEN), "hidden must have the shape"),
        (torch.zeros(3, HIDDEN).double(), "hidden must be a contiguous torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            stage.run(GOOD, caches(1), hidden)


def test_loads_that_nobody_needs_to_hear_of_are_left_out() -> None:
    assert not any(isinstance(op, LoadUnit) for op in program(store=MemoryWeights()).ops)
