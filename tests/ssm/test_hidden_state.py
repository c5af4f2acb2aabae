"""An SSM that reads hidden states: its trees are those of the torch module, whatever came before and in whatever parts."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from specgrove.errors import InvalidRequestError, StaleBaseError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftWork, TreeShape
from ssm_service.config import PoolConfig
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.pool import DrafterPool
from tests.models.hidden_state.tiny_ssms import random_module
from tests.ssm.hidden_states import TwinDrafter, make_ssm, message, toy_ends, toy_hidden_states
from tests.ssm.pools import SHAPE, ask, run

TOKENS = [random.Random(3).randrange(120) for _ in range(100)]
STATES = toy_hidden_states(100)
FLAVOURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "no candidate head": {"candidate_rank": None},
    "EAGLE-3": {
        "candidate_rank": None, "input_norms": "none", "feeds_normed_state": False, "has_embedding_residual": False,
        "has_fed_back_map": False,
    },
    "norm before residual": {
        "has_embedding_residual": False, "has_fed_back_map": False, "residual_is_normed": True, "input_norms": "joint",
        "has_query_key_norms": True,
    },
}  # fmt: skip


def _same(tree: TokenTree, twin: TokenTree, tolerance: float = 2e-3) -> None:
    assert (tree.token_ids, tree.parents) == (twin.token_ids, twin.parents)
    assert tree.log_probs == pytest.approx(twin.log_probs, abs=tolerance)


def _pool(ssm: HiddenStateSsm) -> DrafterPool:
    return DrafterPool([ssm], PoolConfig())


def _tree(draft: Draft) -> TokenTree:
    (drafted,) = draft.trees
    return drafted.tree


def _opening(num_tokens: int, first_row: int = 0, session_id: str = "s", **changes: Any) -> DraftWork:
    states = message(STATES, first_row, num_tokens - 1)
    return DraftWork(session_id, 0, tuple(TOKENS[:num_tokens]), SHAPE, hidden_states=states, **changes)


@pytest.mark.parametrize("sampling", [None, DraftSampling(0.8, seed=11)])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_trees_are_those_of_the_torch_module(flavour: str, sampling: DraftSampling | None) -> None:
    module, ends = random_module(hidden_window=64, **FLAVOURS[flavour]), toy_ends()
    draft = ask(_pool(make_ssm(module, ends)), _opening(20, sampling=sampling))
    _same(_tree(draft), TwinDrafter(module, ends).tree(TOKENS[:20], STATES[:19], 0, SHAPE, sampling))


@pytest.mark.parametrize("max_num_chunk_tokens", [256, 8])
def test_what_comes_out_replaces_what_was_drafted(max_num_chunk_tokens: int) -> None:
    """Step by step; a prompt is read in one pass or in several."""
    module, ends = random_module(hidden_window=100), toy_ends()
    ssm = make_ssm(module, ends, max_num_chunk_tokens=max_num_chunk_tokens)
    pool, twin = _pool(ssm), TwinDrafter(module, ends)
    length = 24
    work = _opening(length)
    steps = random.Random(5)
    while True:
        _same(_tree(ask(pool, work)), twin.tree(TOKENS[:length], STATES[: length - 1], 0, SHAPE))
        new_length = length + steps.randrange(1, 6)
        if new_length > 70:
            break
        rows = message(STATES, length - 1, new_length - 1)
        work = DraftWork("s", length, tuple(TOKENS[length:new_length]), SHAPE, hidden_states=rows)
        length = new_length
    pool.close_session("s")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots


def test_sessions_of_a_batch_do_not_touch_one_another() -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    pool, twin = _pool(make_ssm(module, ends, max_num_chunk_tokens=16)), TwinDrafter(module, ends)
    lengths = (3, 12, 20, 41)
    for item, length in enumerate(lengths):
        pool.add(item, _opening(length, session_id=f"s{item}"))
    results = run(pool)
    for item, length in enumerate(lengths):
        result = results[item]
        assert isinstance(result, Draft)
        _same(_tree(result), twin.tree(TOKENS[:length], STATES[: length - 1], 0, SHAPE))


def test_a_session_without_a_past_begins_with_what_comes() -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    pool, twin = _pool(make_ssm(module, ends)), TwinDrafter(module, ends)
    assert ask(pool, DraftWork("s", 0, tuple(TOKENS[:30]), SHAPE)).trees == ()
    rows = message(STATES, 29, 32)
    tree = _tree(ask(pool, DraftWork("s", 30, tuple(TOKENS[30:33]), SHAPE, hidden_states=rows)))
    _same(tree, twin.tree(TOKENS[:33], STATES[29:32], 29, SHAPE))
    # a gap: rows 32 to 34 are missing
    rows = message(STATES, 35, 39)
    tree = _tree(ask(pool, DraftWork("s", 33, tuple(TOKENS[33:40]), SHAPE, hidden_states=rows)))
    _same(tree, twin.tree(TOKENS[:40], STATES[35:39], 35, SHAPE))


@pytest.mark.parametrize("num_missing", [1, 2, 9])
def test_a_session_whose_last_rows_are_missing_waits_for_them(num_missing: int) -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    pool, twin = _pool(make_ssm(module, ends)), TwinDrafter(module, ends)
    work = DraftWork("s", 0, tuple(TOKENS[:30]), SHAPE, hidden_states=message(STATES, 0, 29 - num_missing))
    assert ask(pool, work).trees == ()
    work = DraftWork("s", 30, (), SHAPE, hidden_states=message(STATES, 18, 29))  # of these some came before
    _same(_tree(ask(pool, work)), twin.tree(TOKENS[:30], STATES[:29], 0, SHAPE))


def test_a_draft_of_nothing_new_is_the_same_draft() -> None:
    pool = _pool(make_ssm(random_module(hidden_window=64), toy_ends()))
    first = _tree(ask(pool, _opening(20)))
    assert _tree(ask(pool, DraftWork("s", 20, (), SHAPE))) == first
    assert ask(pool, DraftWork("s", 20, (), TreeShape(0, 0))).trees == ()


def test_who_only_reads_reads_all_the_same() -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    pool = _pool(make_ssm(module, ends))
    ask(pool, DraftWork("s", 0, tuple(TOKENS[:20]), TreeShape(0, 0), hidden_states=message(STATES, 0, 19)))
    num_rows = pool.ssms.num_rows
    assert num_rows == 19
    tree = _tree(ask(pool, DraftWork("s", 20, tuple(TOKENS[20:21]), SHAPE, hidden_states=message(STATES, 19, 20))))
    _same(tree, TwinDrafter(module, ends).tree(TOKENS[:21], STATES[:20], 0, SHAPE))


def test_older_pairs_than_the_window_are_dropped() -> None:
    module, ends = random_module(hidden_window=16), toy_ends()
    ssm = make_ssm(module, ends)
    pool, twin = _pool(ssm), TwinDrafter(module, ends)
    _same(_tree(ask(pool, _opening(50))), twin.tree(TOKENS[:50], STATES[33:49], 33, SHAPE))
    for length in range(50, 80, 3):
        rows = message(STATES, length - 1, length + 2)
        ask(pool, DraftWork("s", length, tuple(TOKENS[length : length + 3]), SHAPE, hidden_states=rows))
        held = ssm.slots.num_slots - ssm.slots.num_free
        assert held <= 16 + SHAPE.max_depth * 3 + 1


def test_states_of_more_layers_are_cut_and_of_too_few_refused() -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    pool = _pool(make_ssm(module, ends))
    more = torch.cat([toy_hidden_states(100, 1, seed=5), STATES, toy_hidden_states(100, 1, seed=6)], dim=1)
    work = DraftWork("s", 0, tuple(TOKENS[:20]), SHAPE, hidden_states=message(more, 0, 19, (0, 1, 2, 3, 4)))
    _same(_tree(ask(pool, work)), TwinDrafter(module, ends).tree(TOKENS[:20], STATES[:19], 0, SHAPE))
    few = message(STATES[:, :2], 0, 19, (1, 2))
    with pytest.raises(InvalidRequestError, match=r"reads the layers \[1, 2, 3\], and \[3\] are missing"):
        pool.add(2, DraftWork("other", 0, tuple(TOKENS[:20]), SHAPE, hidden_states=few))
    narrow = message(STATES[..., :32], 0, 19)
    with pytest.raises(InvalidRequestError, match="reads states of 64, got 32"):
        pool.add(3, DraftWork("other", 0, tuple(TOKENS[:20]), SHAPE, hidden_states=narrow))


def test_a_session_that_gave_its_room_is_sent_all_rows_again() -> None:
    ssm = make_ssm(random_module(hidden_window=32), toy_ends(), num_slots=40)
    pool = _pool(ssm)
    assert ask(pool, _opening(30, session_id="first")).trees
    assert ask(pool, _opening(30, session_id="second")).trees
    step = DraftWork("first", 30, (TOKENS[30],), SHAPE, hidden_states=message(STATES, 29, 30))
    with pytest.raises(StaleBaseError) as info:
        pool.add(9, step)
    assert info.value.held_len == 30  # tokens are there; who says so gets all hidden states that are kept
    assert ask(pool, replace(step, hidden_states=message(STATES, 0, 30))).trees
    assert ssm._caches["first"].first_position == 0
    assert "second" not in ssm._caches


def test_sessions_give_their_room_to_others() -> None:
    pool = _pool(make_ssm(random_module(hidden_window=64), toy_ends(), num_slots=64))
    for item in range(6):
        assert ask(pool, _opening(30, session_id=f"s{item}")).trees
    for item in range(6):
        pool.close_session(f"s{item}")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights_draft_much_the_same(quantization: str) -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    plain = _tree(ask(_pool(make_ssm(module, ends)), _opening(40)))
    quantized = _tree(ask(_pool(make_ssm(module, ends, quantization=quantization)), _opening(40)))
    first, other = (dict(zip(tree.token_ids[1:4], tree.log_probs[1:4], strict=True)) for tree in (plain, quantized))
    shared = first.keys() & other.keys()
    assert shared
    assert all(abs(first[token] - other[token]) < 1.0 for token in shared)


def test_bfloat16_weights_draft_much_the_same() -> None:
    module, ends = random_module(hidden_window=64), toy_ends()
    plain = _tree(ask(_pool(make_ssm(module, ends)), _opening(40)))
    rounded = _tree(ask(_pool(make_ssm(module, ends, dtype=torch.bfloat16)), _opening(40)))
    assert set(plain.token_ids[1:4]) & set(rounded.token_ids[1:4])


def test_states_that_are_no_numbers_cost_their_own_tree() -> None:
    pool = _pool(make_ssm(random_module(hidden_window=64), toy_ends()))
    broken = STATES.clone()
    broken[10] = float("nan")
    pool.add(1, DraftWork("broken", 0, tuple(TOKENS[:20]), SHAPE, hidden_states=message(broken, 0, 19)))
    pool.add(2, _opening(20))
    results = run(pool)
    assert [len(result.trees) for result in (results[1], results[2]) if isinstance(result, Draft)] == [0, 1]


def test_a_level_can_be_timed() -> None:
    pool = _pool(make_ssm(random_module(), toy_ends()))
    level_ms = pool.ssms.time_level("hidden", 4)
    assert level_ms is not None
    assert level_ms > 0
    assert pool.ssms.num_free_slots == pool.ssms.num_slots
