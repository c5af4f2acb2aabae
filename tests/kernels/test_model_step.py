"""A whole model in one call: choices made tile by tile are those of ``choose`` on the logits, whatever else is asked for."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels.decoder_step import DecoderStep, StepNorm
from specgrove.kernels.linear import NativeLinear, PackedLinear
from specgrove.kernels.model_step import ModelStep, StepEmbedding, StepHead
from specgrove.kernels.quantized_linear import QuantizedLinear, quantize
from specgrove.kernels.rows import ALL_BANNED, HAS_LOGITS, NOT_A_NUMBER, PassRows
from specgrove.kernels.sampling import ChoiceParams, RowChoice, choose
from specgrove.kernels.threads import set_num_threads
from tests.kernels.examples import examples
from tests.kernels.step_parts import HIDDEN, SHAPE, caches, layer

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


def model(vocab: NativeLinear, table: torch.Tensor | None = None) -> ModelStep:
    torch.manual_seed(0)
    step = DecoderStep(SHAPE, [layer(), layer()])
    table = torch.randn(VOCAB_SIZE, HIDDEN) if table is None else table
    return ModelStep(
        StepEmbedding(table, 1.0, None, None), step, StepHead(StepNorm(torch.ones(HIDDEN), None), None, vocab)
    )


def chain(token_ids: list[int], choices: list[RowChoice | None]) -> PassRows:
    """A sequence's rows, all of them asked."""
    count = len(token_ids)
    return PassRows(
        token_ids=array("q", token_ids),
        positions=array("i", range(count)),
        slots=array("i", range(count)),
        context_slots=array("i", range(count)),
        context_offsets=array("i", [0, count]),
        tree_offsets=array("i", [0, 0]),
        row_seq=array("i", [0] * count),
        row_context_len=array("i", range(1, count + 1)),
        row_masks=array("q", [0] * count),
        asked_rows=array("q", range(count)),
        choices=choices,
    )


def ask(step: ModelStep, token_ids: list[int], choices: list[RowChoice | None]) -> tuple[list[int], torch.Tensor]:
    return step(chain(token_ids, choices), caches(), caches())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_choices_are_those_of_the_logits(isa: str, kind: str, num_threads: int) -> None:
    set_num_threads(num_threads)
    generator = torch.Generator().manual_seed(7)
    step = model(vocab_linear(kind, torch.randn(VOCAB_SIZE, HIDDEN, generator=generator) * 0.5))
    token_ids = [5, 900, 17, 4000, 5002, 1, 2, 900, 44]
    found, logits = ask(step, token_ids, [None] * len(token_ids))
    assert found == [HAS_LOGITS] * len(token_ids)
    assert logits.isfinite().all()
    for params in PARAMS:
        wanted = [RowChoice(params, 100 + i) for i in range(len(token_ids))]
        expected = [choose(row, params, 100 + i) for i, row in enumerate(logits)]
        found, no_logits = ask(step, token_ids, list(wanted))
        assert found == expected
        assert no_logits.shape == (0, VOCAB_SIZE)
        # Every other row gives logits: the same, and the choices stay.
        mixed = [choice if i % 2 else None for i, choice in enumerate(wanted)]
        found, some_logits = ask(step, token_ids, mixed)
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
    step = model(PackedLinear(weight))
    _, logits = ask(step, [3, 8], [None, None])
    params = ChoiceParams(temperature=temperature, seed=seed)
    found, _ = ask(step, [3, 8], [RowChoice(params, position), RowChoice(params, position + 1)])
    assert found == [choose(row, params, position + i) for i, row in enumerate(logits)]


@pytest.mark.parametrize("params", PARAMS[:2])
def test_a_row_that_is_not_a_number_disturbs_no_other(params: ChoiceParams) -> None:
    table, vocab = torch.randn(VOCAB_SIZE, HIDDEN), PackedLinear(torch.randn(VOCAB_SIZE, HIDDEN))
    healthy, _ = ask(model(vocab, table), [6], [RowChoice(params, 1)])
    table[5] = torch.nan
    step = model(vocab, table)
    found, _ = ask(step, [6, 5], [RowChoice(params, 1), RowChoice(params, 2)])
    assert found == [*healthy, NOT_A_NUMBER]


@pytest.mark.parametrize("params", PARAMS[:2])
def test_minus_infinity_is_never_chosen(params: ChoiceParams) -> None:
    bias = torch.full((VOCAB_SIZE,), -torch.inf)
    weight = torch.zeros(VOCAB_SIZE, HIDDEN)
    assert ask(model(PackedLinear(weight, bias)), [4], [RowChoice(params, 1)])[0] == [ALL_BANNED]
    bias[4711] = -1e30
    assert ask(model(PackedLinear(weight, bias)), [4], [RowChoice(params, 1)])[0] == [4711]


def test_what_is_not_there_is_refused_before_anything_is_written() -> None:
    step = model(PackedLinear(torch.randn(VOCAB_SIZE, HIDDEN)))
    good = chain([1, 2, 3], [None] * 3)
    bad = [
        (replace(good, token_ids=array("q", [1, VOCAB_SIZE, 3])), "token"),
        (replace(good, asked_rows=array("q", [0, 1, 3])), "row"),
        (replace(good, asked_rows=array("q", [0, 2, 1])), "rising"),
        (replace(good, asked_rows=array("q", [0, 1, 1])), "rising"),
        (replace(good, slots=array("i", [0, 1, 20])), "slot"),
        (replace(good, positions=array("i", [0, 1, 32])), "position"),
        (replace(good, choices=[None]), "asked rows"),
        (replace(good, slots=array("i", [0, 1])), "of 3 rows"),
        (replace(good, positions=array("i", [0])), "of 3 rows"),
        (replace(good, row_seq=array("i", [0])), "of 3 rows"),
        (replace(good, row_masks=array("q", [1, 2, 4, 8])), "of 3 rows"),
        (replace(good, tree_offsets=array("i", [0])), "of 1 sequences"),
        (replace(good, slots=array("q", [0, 1, 2])), "arrays of int64"),
        (replace(good, token_ids=array("q")), "needs a row"),
    ]
    for rows, message in bad:
        k_caches, v_caches = caches(), caches()
        with pytest.raises(ValueError, match=message):
            step(rows, k_caches, v_caches)
        assert not any(cache.any() for cache in k_caches + v_caches)


@pytest.mark.parametrize(
    "field",
    [{"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.1}, {"frequency_penalty": -1.0}],
)  # fmt: skip
def test_choices_that_need_more_than_one_logit_at_a_time_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="makes no choice"):
        RowChoice(ChoiceParams(temperature=0.7, **field), 1)  # type: ignore[arg-type]


def _norm() -> StepNorm:
    return StepNorm(torch.rand(HIDDEN), None)


FORMS = {
    "pre_norm": {},
    "pre_norm, with norms of what is added": {"attention_out_norm": _norm(), "mlp_out_norm": _norm()},
    "post_norm": {},
    "parallel": {"mlp_norm": None},
    "parallel, with two norms": {},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", [[], [0], [8], [2, 3, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_rows_that_nobody_asks_for_change_nothing(isa: str, form: str, asked: list[int]) -> None:
    """Their last layer ends with keys and values, which are those that later passes read."""
    torch.manual_seed(1)
    shape = replace(SHAPE, residual=form.split(",")[0])  # type: ignore[arg-type]
    layers = DecoderStep(shape, [replace(layer(), **FORMS[form]) for _ in range(2)])
    head = StepHead(_norm(), None, PackedLinear(torch.randn(VOCAB_SIZE, HIDDEN)))
    step = ModelStep(StepEmbedding(torch.randn(VOCAB_SIZE, HIDDEN), 1.0, None, None), layers, head)
    rows = chain(list(range(1, 10)), [None] * 9)
    all_caches, some_caches = (caches(), caches()), (caches(), caches())
    _, logits = step(rows, *all_caches)
    assert not logits[0].equal(logits[1])
    some = replace(rows, asked_rows=array("q", asked), choices=[None] * len(asked))
    _, wanted = step(some, *some_caches)
    assert torch.equal(wanted, logits[asked])
    for expected, found in zip(all_caches, some_caches, strict=True):
        assert all(torch.equal(*each) for each in zip(expected, found, strict=True))


def test_rows_of_trees_are_asked_for_apart() -> None:
    """A row's keys go with it when the rows before it are left out."""
    torch.manual_seed(2)
    step = model(PackedLinear(torch.randn(VOCAB_SIZE, HIDDEN)))
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
    _, logits = step(rows, caches(), caches())
    _, nodes = step(replace(rows, asked_rows=array("q", [3, 5]), choices=[None] * 2), caches(), caches())
    assert torch.equal(nodes, logits[[3, 5]])
