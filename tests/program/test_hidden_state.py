"""Hidden-state SSMs of every flavour against their formulas, token by token, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from specgrove.models.decoder.hidden_state import FusedWeights
from specgrove.models.decoder.parameters import LinearWeights
from specgrove.program.backend import Candidates
from specgrove.program.ops import Input
from specgrove.program.stores import MappedWeights, MemoryWeights
from specgrove.program.torch_backend import TorchWeights
from specgrove.runtime.hidden_state_runner import HiddenStateRunner
from tests.program.hidden_states import (
    FLAVOURS,
    NUM_CANDIDATES,
    NUM_SLOTS,
    NUM_TAPS,
    OWN_IDS,
    TARGET,
    VOCAB_SIZE,
    Formulas,
    Tiny,
    caches,
    chain,
    tiny,
    with_changes,
)
from tests.program.programs import in_float64
from tests.program.tiny import Kind

CPU = torch.device("cpu")
COMMITTED, DRAFTED = [5, 9, 17, 40, 69], [1, 2, 44]


class Early(TorchWeights):
    """As the CPU's store wants it."""

    takes_rows_early = True


def taps(num_rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What an LLM may give."""
    generator = torch.Generator().manual_seed(8)
    return torch.randn(num_rows, NUM_TAPS * TARGET, generator=generator).to(dtype)


def assert_are_of(
    found: Candidates, row: int, formulas: Formulas, z: torch.Tensor, own: Tiny, tolerance: float
) -> None:
    """The best by their scores, with their logits in falling order."""
    exact, approximate = formulas.logits(z)
    ids = torch.arange(VOCAB_SIZE) if own.weights.token_ids is None else own.weights.token_ids
    wanted = approximate.topk(NUM_CANDIDATES).indices
    assert sorted(found.token_ids[row].tolist()) == sorted(ids[wanted].tolist())
    places = torch.searchsorted(ids, found.token_ids[row].long())
    assert (found.logits[row] - exact[places]).abs().max() <= tolerance
    assert (found.logits[row].diff() <= 0).all()
    others = approximate.index_fill(0, wanted, -torch.inf)
    total = torch.cat([exact[wanted], others]).logsumexp(0)
    assert abs(float(found.log_sum_exp[row]) - float(total)) <= tolerance


def by_id(found: Candidates, row: int) -> dict[int, float]:
    """A row's logits."""
    return dict(zip(found.token_ids[row].tolist(), found.logits[row].tolist(), strict=True))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_two_passes_are_the_formulas(flavour: str) -> None:
    """An extension in two pieces, then three levels of a chain, each of which is fed what the one before handed out."""
    own = tiny(flavour)
    for store in (in_float64(), Early(CPU, torch.float64)):
        model, formulas = own.model(torch.float64, store), Formulas(own)
        kept, fed = caches(model, torch.float64), taps(len(COMMITTED), torch.float64)
        expected = [formulas.state(token_id, fed[row], is_fed_back=False) for row, token_id in enumerate(COMMITTED)]
        nothing = model.extend(chain(COMMITTED[:2], 0, []), kept, fed[:2])
        assert nothing.hidden[0].shape == (0, own.spec.layer.hidden_size)
        assert nothing.candidates is not None
        assert nothing.candidates.token_ids.shape == (0, NUM_CANDIDATES)
        output = model.extend(chain(COMMITTED[2:], 2, [0, 2]), kept, fed[2:])
        for row, place in enumerate((2, 4)):
            state, z = expected[place]
            assert (output.hidden[0][row] - state).abs().max() <= 1e-12
            assert output.candidates is not None
            assert_are_of(output.candidates, row, formulas, z, own, 1e-12)
        state = output.hidden[0][1:]
        for depth, token_id in enumerate(DRAFTED):
            output = model.level(chain([token_id], len(COMMITTED) + depth, [0]), kept, state)
            wanted, z = formulas.state(token_id, state[0], is_fed_back=True)
            state = output.hidden[0]
            assert (state[0] - wanted).abs().max() <= 1e-12
            assert output.candidates is not None
            assert_are_of(output.candidates, 0, formulas, z, own, 1e-12)


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_kernels_of_the_cpu(flavour: str, kind: Kind) -> None:
    """Near the reference over the same weights; and rows have the same bits one by one, in pieces and together."""
    own, rounded = tiny(flavour, kind), torch.float32 if kind == "int8" else getattr(torch, kind)
    reference, model = own.model(rounded, in_float64()), own.model(rounded, MemoryWeights())
    wanted_caches = caches(reference, torch.float64)
    fed = taps(len(COMMITTED))
    every = range(len(COMMITTED))
    wanted = reference.extend(chain(COMMITTED, 0, every), wanted_caches, fed.double())
    whole = caches(model, rounded)
    found = model.extend(chain(COMMITTED, 0, every), whole, fed)
    tolerance = 2e-5 if kind == "float32" else 0.15
    assert (found.hidden[0] - wanted.hidden[0]).abs().max() <= tolerance
    assert found.candidates is not None
    assert wanted.candidates is not None
    for row in every:
        logits, expected = by_id(found.candidates, row), by_id(wanted.candidates, row)
        shared = logits.keys() & expected.keys()
        assert len(shared) >= NUM_CANDIDATES - (0 if kind == "float32" else 3)
        assert max(abs(logits[token_id] - expected[token_id]) for token_id in shared) <= 6 * tolerance
    states = found.hidden[0][-1:]
    level = model.level(chain(DRAFTED[:1], len(COMMITTED), [0]), whole, states)
    level_wanted = reference.level(chain(DRAFTED[:1], len(COMMITTED), [0]), wanted_caches, states.double())
    assert (level.hidden[0] - level_wanted.hidden[0]).abs().max() <= tolerance
    for size in (1, 2):
        parts = caches(model, rounded)
        for start in range(0, len(COMMITTED), size):
            piece = COMMITTED[start : start + size]
            one = model.extend(chain(piece, start, [len(piece) - 1]), parts, fed[start : start + size])
            last = start + len(piece) - 1
            assert torch.equal(one.hidden[0][0], found.hidden[0][last])
            assert one.candidates is not None
            assert torch.equal(one.candidates.token_ids[0], found.candidates.token_ids[last])
            assert torch.equal(one.candidates.logits[0], found.candidates.logits[last])
            assert torch.equal(one.candidates.log_sum_exp[0], found.candidates.log_sum_exp[last])


def test_weights_are_kept_once() -> None:
    """By both programs, and a tied head is the embedding's table."""
    programs = tiny().model(torch.float32, TorchWeights(CPU)).programs
    both = [list(program.linears()) for program in (programs.extend, programs.level)]
    assert [id(linear) for linear in both[0][2:]] == [id(linear) for linear in both[1][2:]], "all but the fusing ones"
    assert programs.extend.shortlist is not None
    assert programs.extend.shortlist.table is programs.extend.ops[0].table  # type: ignore[union-attr]
    untied = with_changes(tiny(), head=tiny().weights.head.clone()).model(torch.float32, TorchWeights(CPU)).programs
    assert untied.extend.shortlist is not None
    assert untied.extend.shortlist.table is not untied.extend.ops[0].table  # type: ignore[union-attr]


def test_how_wide_what_is_fed_is() -> None:
    programs = tiny().model(torch.float32, TorchWeights(CPU)).programs
    assert (programs.extend.input_width, programs.level.input_width) == (NUM_TAPS * TARGET, 48)
    assert sum(isinstance(op, Input) for op in programs.level.ops) == 1


def test_passes_of_a_runner() -> None:
    own = tiny()
    model = own.model(torch.float32, TorchWeights(CPU))
    runner, kept = HiddenStateRunner(model, NUM_SLOTS), caches(model, torch.float32)
    rows, fed = chain(COMMITTED, 0, [4]), taps(len(COMMITTED))
    runner.start_extend(rows, fed)
    found, expected = runner.finish(), model.extend(rows, kept, fed)
    assert torch.equal(found.states, expected.hidden[0])
    assert expected.candidates is not None
    assert torch.equal(found.candidates.logits, expected.candidates.logits)
    rows = chain([int(found.candidates.token_ids[0, 0])], len(COMMITTED), [0])
    runner.start_level(rows, found.states)
    assert torch.equal(runner.finish().states, model.level(rows, kept, found.states).hidden[0])
    with pytest.raises(ValueError, match=r"hidden must have the shape \[1, 48\]"):
        runner.start_level(rows, fed[:1])


BAD: list[tuple[dict[str, object] | Callable[[], dict[str, object]], str]] = [
    ({"taps": FusedWeights()}, "must be fused by a linear"),
    ({"taps": FusedWeights(LinearWeights(torch.zeros(48, 30)))}, "the linear must have 80 inputs, got 30"),
    (lambda: {"tap_norms": tiny().weights.tap_norms[:1]}, "a norm for each of the 2 taps, or none: got 1"),
    ({"embedding": torch.zeros(89, 48)}, "the LLM's 90 token ids, got 89"),
    ({"head": torch.zeros(30, 48)}, "a head of 30 ids must say which"),
    ({"token_ids": torch.arange(91)[1:]}, "rising ids below 90"),
    ({"token_ids": OWN_IDS}, "one for each row of the head"),
    (lambda: {"layer": replace(tiny().weights.layer, mlp_norm=None)}, "needs a norm before its MLP"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_weights_that_do_not_fit_are_named(
    changes: dict[str, object] | Callable[[], dict[str, object]], message: str
) -> None:
    made = changes() if callable(changes) else changes
    with pytest.raises(ValueError, match=message):
        with_changes(tiny(), **made).model(torch.float32, TorchWeights(CPU))


def test_streamed_weights_are_refused(tmp_path: pytest.TempPathFactory) -> None:
    with pytest.raises(ValueError, match="can't be streamed"):
        tiny().model(torch.float32, MappedWeights(tmp_path, 0))  # type: ignore[arg-type]
