"""A pass on the CPU: choices made tile by tile are those of ``choose`` on the logits, whatever else is asked for."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels.linear import NativeLinear, PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, quantize
from specgrove.kernels.rows import ALL_BANNED, HAS_LOGITS, NOT_A_NUMBER
from specgrove.kernels.sampling import ChoiceParams, RowChoice, choose
from specgrove.kernels.threads import set_num_threads
from specgrove.program.cpu import CpuProgram
from specgrove.program.output_ops import Choose
from tests.kernels.examples import examples
from tests.program.tiny import FORMS, HIDDEN, caches, chain, program

VOCAB_SIZE = 5003
HEADS = ("float32", "bfloat16", "float16", "int8", "int4")
PARAMS = (
    ChoiceParams(),
    ChoiceParams(temperature=1.0, seed=3),
    ChoiceParams(temperature=0.3, seed=2**63),
    ChoiceParams(temperature=5.0, seed=1, top_p=1.0, top_k=0),
)


def vocab_linear(kind: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> NativeLinear:
    if kind in ("int8", "int4"):
        return QuantizedLinear(quantize(weight, 8 if kind == "int8" else 4, None if kind == "int8" else 16), bias)
    return PackedLinear(weight.to(getattr(torch, kind)), bias)


def model(vocab: NativeLinear, table: torch.Tensor | None = None, form: str = "pre_norm") -> CpuProgram:
    """With this head."""
    table = torch.randn(VOCAB_SIZE, HIDDEN, generator=torch.Generator().manual_seed(0)) if table is None else table
    whole = program(form, table=table)
    *ops, choice = whole.ops
    assert isinstance(choice, Choose)
    return CpuProgram(replace(whole, ops=(*ops, replace(choice, vocab=vocab, widths=(vocab.out_features,)))))


def ask(
    executable: CpuProgram, token_ids: list[int], choices: list[RowChoice | None]
) -> tuple[Sequence[int], torch.Tensor]:
    out = executable.run(chain(token_ids, choices), caches())
    return out.choices, out.logits


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_choices_are_those_of_the_logits(isa: str, kind: str, num_threads: int) -> None:
    set_num_threads(num_threads)
    generator = torch.Generator().manual_seed(7)
    executable = model(vocab_linear(kind, torch.randn(VOCAB_SIZE, HIDDEN, generator=generator) * 0.5))
    token_ids = [5, 900, 17, 4000, 5002, 1, 2, 900, 44]
    found, logits = ask(executable, token_ids, [None] * len(token_ids))
    assert list(found) == []
    assert logits.isfinite().all()
    for params in PARAMS:
        wanted = [RowChoice(params, 100 + i) for i in range(len(token_ids))]
        expected = [choose(row, params, 100 + i) for i, row in enumerate(logits)]
        found, no_logits = ask(executable, token_ids, list(wanted))
        assert found == expected
        assert no_logits.shape == (0, VOCAB_SIZE)
        # Every other row gives logits: the same, and the choices stay.
        mixed = [choice if i % 2 else None for i, choice in enumerate(wanted)]
        found, some_logits = ask(executable, token_ids, mixed)
        assert found == [expected[i] if i % 2 else HAS_LOGITS for i in range(len(token_ids))]
        assert torch.equal(some_logits, logits[::2])


@given(
    scale=st.sampled_from([0.0, 1e-3, 0.1, 1.0, 30.0]),
    temperature=st.sampled_from([0.0, 1e-4, 0.7, 1.0, 100.0]),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**20),
    vocab_size=st.sampled_from([1, 15, 16, 33, 64, 257, VOCAB_SIZE]),
    num_distinct=st.integers(1, 40),
)
@examples(60)
def test_ties_noise_and_cut_off_tiles(
    scale: float, temperature: float, seed: int, position: int, vocab_size: int, num_distinct: int
) -> None:
    """Equal outputs stand in many tiles, and the lowest id must win; noise decides among them."""
    generator = torch.Generator().manual_seed(seed % 1000)
    distinct = torch.randn(num_distinct, HIDDEN, generator=generator) * scale
    weight = distinct[torch.randint(num_distinct, (vocab_size,), generator=generator)]
    executable = model(PackedLinear(weight))
    _, logits = ask(executable, [3, 8], [None, None])
    params = ChoiceParams(temperature=temperature, seed=seed)
    found, _ = ask(executable, [3, 8], [RowChoice(params, position), RowChoice(params, position + 1)])
    assert found == [choose(row, params, position + i) for i, row in enumerate(logits)]


@pytest.mark.parametrize("params", PARAMS[:2])
def test_a_row_that_is_not_a_number_disturbs_no_other(params: ChoiceParams) -> None:
    table, vocab = torch.randn(VOCAB_SIZE, HIDDEN), PackedLinear(torch.randn(VOCAB_SIZE, HIDDEN))
    healthy, _ = ask(model(vocab, table), [6], [RowChoice(params, 1)])
    table[5] = torch.nan
    executable = model(vocab, table)
    found, _ = ask(executable, [6, 5], [RowChoice(params, 1), RowChoice(params, 2)])
    assert found == [*healthy, NOT_A_NUMBER]


@pytest.mark.parametrize("params", PARAMS[:2])
def test_minus_infinity_is_never_chosen(params: ChoiceParams) -> None:
    bias = torch.full((VOCAB_SIZE,), -torch.inf)
    weight = torch.zeros(VOCAB_SIZE, HIDDEN)
    assert ask(model(PackedLinear(weight, bias)), [4], [RowChoice(params, 1)])[0] == [ALL_BANNED]
    bias[4711] = -1e30
    assert ask(model(PackedLinear(weight, bias)), [4], [RowChoice(params, 1)])[0] == [4711]


@pytest.mark.parametrize(
    "field",
    [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.1}, {"frequency_penalty": -1.0}],
)  # fmt: skip
def test_choices_that_need_more_than_one_logit_at_a_time_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="makes no choice"):
        RowChoice(ChoiceParams(temperature=0.7, **field), 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", [[], [0], [8], [2, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_rows_that_nobody_asks_for_change_nothing(isa: str, form: str, asked: list[int]) -> None:
    """Their last layer ends with keys and values, which are those that later passes read."""
    executable = CpuProgram(program(form))
    rows = chain(list(range(1, 10)), [None] * 9)
    all_caches, some_caches = caches(), caches()
    logits = executable.run(rows, all_caches).logits
    assert not logits[0].equal(logits[1])
    some = replace(rows, asked_rows=array("q", asked), choices=[None] * len(asked))
    assert torch.equal(executable.run(some, some_caches).logits, logits[asked])
    assert all(map(torch.equal, some_caches.keys + some_caches.values, all_caches.keys + all_caches.values))


def test_rows_of_trees_are_asked_for_apart() -> None:
    """A row's keys go with it when the rows before it are left out."""
    executable = CpuProgram(program())
    rows = chain([5, 6, 7, 8, 9, 10], [None] * 6)
    rows = replace(  # three tokens of context, and a tree of three nodes below them: a root with two children
        rows,
        context_offsets=array("i", [0, 3]),
        context_slots=array("i", range(3)),
        tree_slots=array("i", [3, 4, 5]),
        tree_offsets=array("i", [0, 3]),
        positions=array("i", [0, 1, 2, 3, 4, 4]),
        row_context_len=array("i", [1, 2, 3, 3, 3, 3]),
        row_masks=array("q", [0, 0, 0, 0b001, 0b011, 0b101]),
    )
    logits = executable.run(rows, caches()).logits
    nodes = executable.run(replace(rows, asked_rows=array("q", [3, 5]), choices=[None] * 2), caches()).logits
    assert torch.equal(nodes, logits[[3, 5]])
