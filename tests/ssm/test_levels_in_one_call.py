"""A draft that is alone reads its tokens and has all its levels by one native call: the same trees, bit for bit, as by passes."""

from __future__ import annotations

import itertools
import random
from array import array
from dataclasses import replace

import pytest
import torch

from specgrove.kernels.candidates import CandidateRow
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftWork, TreePrices, TreeShape
from specgrove.models.hidden_state.program_weights import ModelEnds
from specgrove.program.level_draft import DraftLevel, KnownRoot, LevelDraft, UnreadRows
from specgrove.runtime.hidden_state_runner import HiddenStateRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam, DraftTree, Expansion
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.one_call import is_short
from ssm_service.pool import DrafterPool
from tests.models.hidden_state.tiny_ssms import random_module
from tests.ssm.hidden_states import make_ssm, message, toy_ends, toy_hidden_states
from tests.ssm.pools import ask, run

NUM_TOKENS = 60
TOKENS = [random.Random(3).randrange(120) for _ in range(NUM_TOKENS)]
STATES = toy_hidden_states(NUM_TOKENS)
SHAPES = [
    TreeShape(num_nodes, depth, width, prices=prices)
    for num_nodes, depth, width, prices in itertools.product(
        (1, 2, 6, 40), (1, 2, 5, 9), (None, 1, 5), (None, TreePrices(0.02, 0.001), TreePrices(0.2, 0.02))
    )
]


@pytest.fixture
def by_passes(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A pass a level, as on a GPU, until this is undone."""
    monkeypatch.setattr(HiddenStateRunner, "drafts_levels", property(lambda runner: False))
    return monkeypatch


def no_pass(*arguments: object) -> None:
    raise AssertionError("a level was a pass of its own")


def _ssm(
    rule: Beam | Expansion, ends: ModelEnds | None = None, *, num_slots: int = 256, **flavour: object
) -> HiddenStateSsm:
    ssm = make_ssm(random_module(hidden_window=64, **flavour), ends or toy_ends(), num_slots=num_slots)
    ssm.rule = rule
    return ssm


def _work(session_id: str, base: int, length: int, shape: TreeShape, sampling: DraftSampling | None) -> DraftWork:
    first = max(base - 1, 0)
    states = message(STATES, first, length - 1) if length - 1 > first else None
    return DraftWork(session_id, base, tuple(TOKENS[base:length]), shape, sampling=sampling, hidden_states=states)


def _trees(ssm: HiddenStateSsm, sampling: DraftSampling | None, shapes: list[TreeShape]) -> list[tuple[TokenTree, int]]:
    """One session's for all shapes, with their numbers of levels; a token is committed now and then."""
    pool, found, base, length = DrafterPool([ssm], PoolConfig()), [], 0, 10
    for place, shape in enumerate(shapes):
        draft = ask(pool, _work("s", base, length, shape, sampling))
        found.append((draft.trees[0].tree, draft.times[0].num_levels))
        base, length = length, min(length + place % 3, NUM_TOKENS)
        if base == NUM_TOKENS:
            base, length = 0, 10
    pool.ssms.neural[ssm.name].check_slots()
    pool.close_session("s")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots
    return found


@pytest.mark.parametrize("sampling", [None, DraftSampling(0.8, seed=11), DraftSampling(1.2, 5, top_k=20, top_p=0.9)])
@pytest.mark.parametrize("rule", [Beam(3), Beam(1), Expansion((2, 1, 3, 1))])
def test_trees_have_the_same_bits(
    rule: Beam | Expansion, sampling: DraftSampling | None, by_passes: pytest.MonkeyPatch
) -> None:
    expected = _trees(_ssm(rule), sampling, SHAPES)
    by_passes.undo()
    by_passes.setattr(HiddenStateRunner, "start_extend", no_pass)  # new tokens are read in the same call
    by_passes.setattr(HiddenStateRunner, "start_level", no_pass)  # not one node is missed
    assert _trees(_ssm(rule), sampling, SHAPES) == expected


def test_ids_of_a_vocabulary_of_its_own(by_passes: pytest.MonkeyPatch) -> None:
    token_ids = torch.arange(0, 120, 3)
    ends = replace(toy_ends(), head=toy_ends().head[token_ids], token_ids=token_ids)
    expected = _trees(_ssm(Beam(3), ends, candidate_rank=None), None, SHAPES)
    by_passes.undo()
    by_passes.setattr(HiddenStateRunner, "start_level", no_pass)
    assert _trees(_ssm(Beam(3), ends, candidate_rank=None), None, SHAPES) == expected


def test_where_slots_are_few_passes_do_the_rest(by_passes: pytest.MonkeyPatch) -> None:
    """They take another session's."""
    shape, found = TreeShape(20, 8), []
    for _ in range(2):
        ssm = _ssm(Beam(3), num_slots=44)
        pool = DrafterPool([ssm], PoolConfig())
        ask(pool, _work("idle", 0, 13, shape, None))
        draft = ask(pool, _work("s", 0, 20, shape, None))
        found.append((draft.trees[0].tree, draft.times[0].num_levels))
        ssm.check_slots()
        by_passes.undo()
    assert found[0] == found[1]


def test_drafts_at_once_share_their_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    ssm = _ssm(Beam(3))
    pool, shape = DrafterPool([ssm], PoolConfig()), TreeShape(20, 6)
    monkeypatch.setattr(HiddenStateRunner, "draft_levels", no_pass)
    pool.add(0, _work("a", 0, 12, shape, None))
    pool.add(1, _work("b", 0, 12, shape, None))
    first, second = (result for _, result in sorted(run(pool).items()))
    assert isinstance(first, Draft)
    assert isinstance(second, Draft)
    assert first.trees == second.trees


def test_large_ssms_share_passes_with_drafts_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HiddenStateRunner, "draft_levels", no_pass)
    monkeypatch.setattr("ssm_service.one_call.MAX_NUM_PRODUCTS", 1)
    draft = ask(DrafterPool([_ssm(Beam(3))], PoolConfig()), _work("s", 0, 12, TreeShape(40, 6), None))
    assert draft.times[0].num_levels == 6


def test_what_is_not_there_is_refused() -> None:
    ssm = _ssm(Beam(3))
    states = torch.zeros(2, 64)
    root, levels = KnownRoot(states, 0, [(5, -0.1)]), [DraftLevel(1, 1, CandidateRow(1))] * 3
    draft = LevelDraft(array("i", [0]), 1, root, levels, [1, 2], 4, 0.0, 1, 1.0, 120)
    assert ssm.runner.draft_levels(draft).nodes[0][:3] == (-1, 5, pytest.approx(-0.1))
    for wrong in (
        replace(draft, root=replace(root, row=2)),
        replace(draft, root=replace(root, states=torch.zeros(2, 63))),
        replace(draft, max_num_nodes=0),
        replace(draft, num_kept=0),
        replace(draft, slots=[1, 256]),
        replace(draft, context_slots=array("i", [256])),
        replace(draft, context_slots=array("q", [0])),
        replace(draft, first_position=1 << 20),
        replace(draft, first_position=(1 << 32) + 1),
    ):
        with pytest.raises(ValueError, match=r"row|shape|at least|slots|slot|positions"):
            ssm.runner.draft_levels(wrong)


def test_passes_within_a_call_are_counted() -> None:
    ssm = _ssm(Beam(3))
    pool = DrafterPool([ssm], PoolConfig())
    draft = ask(pool, _work("s", 0, 12, TreeShape(40, 6), None))
    assert pool.counts.num_passes == draft.times[0].num_levels == 6
    assert not ssm.row_times.is_known  # what so many passes take says nothing of one


def test_a_head_over_a_large_vocabulary_makes_a_call_long() -> None:
    tree, spec = DraftTree(TreeShape(60, 16, 12), Beam(3)), random_module(hidden_window=64, candidate_rank=8).spec
    assert is_short(tree, spec)
    large = replace(spec, vocab_size=200_000, candidate_rank=None)
    assert not is_short(tree, large)
    assert is_short(DraftTree(TreeShape(4, 3), Beam(3)), large)


def test_many_tokens_to_read_make_a_call_long() -> None:
    tree, spec = DraftTree(TreeShape(4, 3), Beam(3)), random_module(hidden_window=64, candidate_rank=8).spec
    assert is_short(tree, spec, 100)
    assert not is_short(tree, spec, 1_000_000)
    assert not is_short(DraftTree(TreeShape(0, 3), Beam(3)), spec, 1)  # there is no level


def test_unread_rows_that_are_not_there_are_refused() -> None:
    ssm = _ssm(Beam(3))
    rows = UnreadRows(array("q", [5, 6]), bytes(2 * 192 * 2), CandidateRow(3))
    draft = LevelDraft(
        array("i", [0, 1]), 2, rows, [DraftLevel(2, 2, CandidateRow(4))] * 2, [2, 3], 4, 0.0, 2, 1.0, 120
    )
    found = ssm.runner.draft_levels(draft)
    assert found.root is not None
    assert [node[1] for node in found.nodes] == [token_id for token_id, _ in found.root.proposals]
    for wrong in (
        replace(draft, root=replace(rows, token_ids=array("i", [5, 6]))),
        replace(draft, root=replace(rows, token_ids=array("q", [5, 120]))),
        replace(draft, root=replace(rows, token_ids=array("q"))),
        replace(draft, root=replace(rows, token_ids=array("q", [5] * 3), hidden=bytes(3 * 192 * 2))),
        replace(draft, root=replace(rows, hidden=bytes(2 * 192 * 2 - 2))),
        replace(draft, context_slots=array("i", [0, 256])),
        replace(draft, first_position=1),
    ):
        with pytest.raises(ValueError, match=r"int64|token ids|bfloat16|slots"):
            ssm.runner.draft_levels(wrong)


def test_a_root_that_is_no_numbers_costs_its_own_tree(by_passes: pytest.MonkeyPatch) -> None:
    shape, states = TreeShape(20, 4), STATES.clone()
    states[7] = torch.nan
    for _ in range(2):
        pool = DrafterPool([_ssm(Beam(3))], PoolConfig())
        work = DraftWork("s", 0, tuple(TOKENS[:10]), shape, hidden_states=message(states, 0, 9))
        assert ask(pool, work).trees == ()
        again = DraftWork("s", 10, (), shape)  # nothing came since
        assert ask(pool, again).trees == ()
        pool.ssms.neural["hidden"].check_slots()
        by_passes.undo()
