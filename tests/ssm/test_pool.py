"""The pool's engine with real tiny models: KV reuse changes nothing, sessions end, errors leave it serving."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from specgrove.errors import DeadlineExceededError, InvalidRequestError, SessionClosedError, StaleBaseError
from specgrove.kernels.rows import PassRows
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import ModelRunner
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.draft_vocab import DraftVocab
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import TINY_VOCAB_SIZE
from tests.ssm.pools import PROMPT, SHAPE, Clock, ask, make_pool, run


def test_each_ssm_answers_with_a_tree_below_the_last_token(runners: list[ModelRunner]) -> None:
    draft = ask(make_pool(runners), DraftWork("s", 0, PROMPT + PROMPT, SHAPE))
    assert draft.base == 2 * len(PROMPT)
    assert {drafted.ssm for drafted in draft.trees} == {"beam", "expansion", "lookup"}
    for drafted in draft.trees:
        tree = drafted.tree.validated(vocab_size=TINY_VOCAB_SIZE, max_num_nodes=8)
        assert tree.token_ids[0] == PROMPT[-1]
        assert max(tree.depths()) <= 4


def test_kept_keys_and_values_change_no_tree(runners: list[ModelRunner]) -> None:
    """Whatever was committed, along the drafted tree or not: the same trees as from a fresh session."""
    rng = random.Random(1)
    pool = make_pool(runners)
    committed = list(PROMPT)
    work = DraftWork("s", 0, PROMPT, SHAPE)
    for step in range(25):
        draft = ask(pool, work)
        fresh = ask(pool, DraftWork(f"fresh {step}", 0, tuple(committed), SHAPE, ssms=("beam", "expansion")))
        pool.close_session(f"fresh {step}")
        assert [drafted for drafted in draft.trees if drafted.ssm != "lookup"] == list(fresh.trees)
        tree = rng.choice(draft.trees).tree
        node = rng.randrange(tree.num_nodes)
        path: list[int] = []
        while node > 0:
            path.insert(0, tree.token_ids[node])
            node = tree.parents[node]
        new = [*path, *([rng.randrange(TINY_VOCAB_SIZE)] if rng.random() < 0.8 or not path else [])]
        if len(committed) + len(new) > 200:
            break
        work = DraftWork("s", len(committed), tuple(new), SHAPE)
        committed += new
    pool.close_session("s")
    assert pool.ssms.num_free_slots == pool.ssms.num_slots


def test_sessions_of_a_batch_do_not_touch_one_another(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    alone = [ask(pool, DraftWork(f"s{i}", 0, PROMPT[i:], SHAPE)).trees for i in range(4)]
    for i in range(4):
        pool.add(i, DraftWork(f"s{i}", 0, PROMPT[i:], SHAPE))
    together = run(pool)
    neural = [[tree for tree in trees if tree.ssm != "lookup"] for trees in alone]
    for i in range(4):
        draft = together[i]
        assert isinstance(draft, Draft)
        assert [tree for tree in draft.trees if tree.ssm != "lookup"] == neural[i]


def test_a_draft_vocabulary_maps_both_ways(runners: list[ModelRunner]) -> None:
    """The map is a permutation here, so drafting with permuted embeddings could be anything: only the ids are checked."""
    ids = torch.tensor([-1, *range(1, TINY_VOCAB_SIZE)], dtype=torch.int32) + 1000
    ids[0] = -1
    pool = DrafterPool([NeuralSsm("mapped", runners[0], Beam(), DraftVocab(ids))], PoolConfig())
    (drafted,) = ask(pool, DraftWork("s", 0, (1005, 5, 1044), SHAPE)).trees
    assert drafted.tree.token_ids[0] == 1044
    assert all(token_id > 1000 for token_id in drafted.tree.token_ids)
    # The same model without a map, that leaves the id out which stands for all others.
    plain = NeuralSsm("plain", runners[0], Beam(), DraftVocab(torch.tensor([-1, *range(1, TINY_VOCAB_SIZE)])))
    (same,) = ask(DrafterPool([plain], PoolConfig()), DraftWork("s", 0, (5, 0, 44), SHAPE)).trees
    assert list(drafted.tree.token_ids) == [1000 + token_id for token_id in same.tree.token_ids]


def test_tokens_that_an_ssm_does_not_know_cost_nobody_the_draft(runners: list[ModelRunner]) -> None:
    """An LLM's vocabulary may be larger: its ids are fed as id 0, and what comes after them is drafted as ever."""
    beyond = ask(make_pool(runners), DraftWork("s", 0, (5, 6, TINY_VOCAB_SIZE + 3, 5, 6), SHAPE))
    as_zero = ask(make_pool(runners), DraftWork("s", 0, (5, 6, 0, 5, 6), SHAPE))
    neural = {drafted.ssm: drafted.tree for drafted in beyond.trees if drafted.ssm != "lookup"}
    assert neural == {drafted.ssm: drafted.tree for drafted in as_zero.trees if drafted.ssm != "lookup"}
    assert len(neural) == 2
    (looked_up,) = [drafted.tree for drafted in beyond.trees if drafted.ssm == "lookup"]
    assert TINY_VOCAB_SIZE + 3 in looked_up.token_ids


def test_stale_base_says_what_is_held(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    ask(pool, DraftWork("s", 0, PROMPT, SHAPE))
    for base in (3, len(PROMPT) - 1, len(PROMPT) + 1):
        with pytest.raises(StaleBaseError) as error:
            pool.add(2, DraftWork("s", base, (4,), SHAPE))
        assert error.value.held_len == len(PROMPT)
    with pytest.raises(StaleBaseError) as error:
        pool.add(2, DraftWork("unknown", 5, (4,), SHAPE))
    assert error.value.held_len == 0


def test_bad_items_name_the_field(runners: list[ModelRunner]) -> None:
    pool = make_pool(runners)
    good = DraftWork("s", 0, PROMPT, SHAPE)
    cases = {
        "session_id": replace(good, session_id="x" * 65),
        "new_token_ids": replace(good, new_token_ids=(-1,)),
        "max_num_nodes": replace(good, shape=TreeShape(256, 4)),
        "max_depth": replace(good, shape=TreeShape(4, 33)),
        "beam_width": replace(good, shape=TreeShape(4, 4, 65)),
        "ssms": replace(good, ssms=("nobody",)),
    }
    for field, work in cases.items():
        with pytest.raises(InvalidRequestError) as error:
            pool.add(1, work)
        assert error.value.violations[0].field == field
    assert pool.num_sessions == 0
    ask(pool, good)


def test_closed_and_expired_items_answer_and_free(runners: list[ModelRunner]) -> None:
    clock = Clock()
    pool = make_pool(runners, clock)
    pool.add(1, DraftWork("s", 0, PROMPT, SHAPE))
    pool.step()
    pool.close_session("s")
    assert isinstance(run(pool)[1], SessionClosedError)
    pool.add(2, DraftWork("t", 0, PROMPT, SHAPE, timeout_ms=50))
    pool.step()
    clock.now_s = 0.06
    assert isinstance(run(pool)[2], DeadlineExceededError)
    assert pool.ssms.num_free_slots == pool.ssms.num_slots
    ask(pool, DraftWork("u", 0, PROMPT, SHAPE))
    clock.now_s = 301.0
    pool.expire_sessions()
    assert pool.num_sessions == 0
    assert pool.ssms.num_free_slots == pool.ssms.num_slots


def test_few_tokens_do_not_queue_behind_long_prompts(runners: list[ModelRunner]) -> None:
    pool = DrafterPool([NeuralSsm("beam", runners[0], Beam(2), None, max_num_chunk_tokens=16)], PoolConfig())
    ask(pool, DraftWork("running", 0, PROMPT, SHAPE))
    pool.add(1, DraftWork("long", 0, tuple(i % 90 for i in range(200)), SHAPE))
    pool.add(2, DraftWork("running", len(PROMPT), (7, 8), TreeShape(4, 2)))
    pool.step()
    assert dict(pool.step()).keys() == {2}
    assert run(pool).keys() == {1}


def test_who_only_reads_computes_no_logits(runners: list[ModelRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    num_asked: list[int] = []
    run_rows = runners[0].decoder.run

    def watched(rows: PassRows, *caches: Any) -> PassOutput:
        num_asked.append(len(rows.asked_rows))
        return run_rows(rows, *caches)

    monkeypatch.setattr(runners[0].decoder, "run", watched)
    pool = DrafterPool([NeuralSsm("beam", runners[0], Beam(2), None, max_num_chunk_tokens=4)], PoolConfig())
    assert ask(pool, DraftWork("s", 0, PROMPT, TreeShape(0, 0))).trees == ()
    assert num_asked == [0, 0, 0]
    (drafted,) = ask(pool, DraftWork("s", len(PROMPT), (7, 8), SHAPE)).trees
    assert num_asked[3:5] == [1, 2]
    (fresh,) = ask(pool, DraftWork("fresh", 0, (*PROMPT, 7, 8), SHAPE)).trees
    assert drafted == fresh


def test_an_ssm_named_twice_drafts_once(runners: list[ModelRunner]) -> None:
    draft = ask(make_pool(runners), DraftWork("s", 0, PROMPT + PROMPT, SHAPE, ssms=("lookup", "beam", "lookup")))
    assert sorted(drafted.ssm for drafted in draft.trees) == ["beam", "lookup"]


def test_a_vocabulary_must_fit_its_model(runners: list[ModelRunner]) -> None:
    with pytest.raises(ValueError, match="5 draft token ids, its model has 97"):
        NeuralSsm("mapped", runners[0], Beam(), DraftVocab(torch.arange(5)))
    with pytest.raises(ValueError, match="no token that it could propose"):
        NeuralSsm("mapped", runners[0], Beam(), DraftVocab(torch.full((TINY_VOCAB_SIZE,), -1)))
    ids = torch.full((TINY_VOCAB_SIZE,), -1)
    ids[40:42] = torch.tensor([7, 8])
    pool = DrafterPool([NeuralSsm("mapped", runners[0], Beam(3), DraftVocab(ids))], PoolConfig())
    (drafted,) = ask(pool, DraftWork("s", 0, (1, 7, 2), SHAPE)).trees
    assert set(drafted.tree.token_ids[1:]) == {7, 8}


def test_a_broken_ssm_costs_its_own_trees_only(runners: list[ModelRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    forward = runners[0].forward
    nums_rows = []

    def spoilt(rows: PassRows) -> torch.Tensor:
        logits = forward(rows)
        if not nums_rows:
            logits[0] = torch.nan  # the first session's; the second's are in row 1
        nums_rows.append(len(logits))
        return logits

    monkeypatch.setattr(runners[0], "forward", spoilt)
    pool = make_pool(runners)
    for i, name in enumerate("st"):
        pool.add(i, DraftWork(name, 0, (3, 4), SHAPE))
    drafts = run(pool)
    ssms = [{drafted.ssm for drafted in draft.trees} for _, draft in sorted(drafts.items()) if isinstance(draft, Draft)]
    assert ssms == [{"expansion"}, {"beam", "expansion"}]
    assert nums_rows[0] == 2


def test_too_long_sequences_get_no_tree(runners: list[ModelRunner]) -> None:
    draft = ask(make_pool(runners), DraftWork("s", 0, tuple(i % 90 for i in range(280)), SHAPE))
    assert {drafted.ssm for drafted in draft.trees} <= {"lookup"}


@pytest.mark.parametrize("method", ["start_top_k", "finish_top_k"])
def test_a_step_that_fails_half_way_leaves_nothing(
    method: str, runners: list[ModelRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = make_pool(runners)
    work = DraftWork("s", 0, PROMPT, SHAPE)
    expected = ask(pool, work)

    def fails(*_: object) -> None:
        raise ValueError("no such slot")

    with monkeypatch.context() as patched:
        patched.setattr(runners[1], method, fails)
        pool.add(2, work)
        with pytest.raises(ValueError, match="no such slot"):
            run(pool)
        pool.reset()  # as the step loop does
    assert pool.ssms.num_free_slots == pool.ssms.num_slots
    assert not pool.has_work()
    assert ask(pool, work).trees == expected.trees


def test_a_draft_tells_what_each_ssm_took_those_without_a_tree_too(runners: list[ModelRunner]) -> None:
    draft = ask(make_pool(runners), DraftWork("s", 0, (5, 1, 44, 90), SHAPE))  # nothing occurred before
    assert {drafted.ssm for drafted in draft.trees} == {"beam", "expansion"}
    times = {time.ssm: time for time in draft.times}
    levels = {name: time.num_levels for name, time in times.items()}
    assert levels == {"beam": 3, "expansion": 3, "lookup": 0}
    beam = next(drafted.tree for drafted in draft.trees if drafted.ssm == "beam")
    assert max(beam.depths()) == 2  # none of the third level is among the best nodes
    assert all(time.ms > 0 for time in times.values())
    named = ask(make_pool(runners), DraftWork("s", 0, PROMPT, SHAPE, ssms=("beam",)))
    assert [time.ssm for time in named.times] == ["beam"]
