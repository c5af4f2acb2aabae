"""The verifier engine: same tokens for any trees, batch and history; slots accounted for; errors that leave it serving."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.config import VerifierConfig
from llm_service.paying_rows import PayingRows
from llm_service.verifier import VerifierEngine
from specgrove.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    SessionClosedError,
    StaleBaseError,
)
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SessionParams, Verdict, VerifyWork
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.verifying import GREEDY, PROMPT, SAMPLED, Clock, ask, incremental, opening, random_tree, run


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), is_sampled=st.booleans())
def test_any_trees_give_the_incremental_tokens(runner: ModelRunner, seed: int, is_sampled: bool) -> None:
    rng = random.Random(seed)
    sampling = replace(SAMPLED, seed=seed) if is_sampled else SamplingParams()
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, max_num_chunk_tokens=4))
    prompt = [rng.randrange(TINY_VOCAB_SIZE) for _ in range(rng.randrange(1, 20))]
    expected = incremental(engine, prompt, 24, sampling)
    output: list[int] = []
    while len(output) < 24:
        committed = prompt + output
        tree = random_tree(rng, committed[-1], expected[len(output) : len(output) + 5])
        if output and rng.random() > 0.2:
            work = VerifyWork("speculative", len(committed), (), tree)
        else:  # the session is opened anew, as after a restart
            work = VerifyWork("speculative", 0, tuple(committed), tree, SessionParams(sampling, len(prompt)))
        if rng.random() < 0.5:  # a neighbour in the batch
            engine.add(9, opening("neighbour", [rng.randrange(TINY_VOCAB_SIZE) for _ in range(6)]))
        engine.add(1, replace(work, may_leave_out_nodes=rng.random() < 0.5))
        verdict = run(engine)[1]
        assert isinstance(verdict, Verdict)
        assert verdict.base == len(committed)
        assert set(verdict.left_out_nodes).isdisjoint({0, *verdict.accepted_nodes})
        assert [tree.token_ids[node] for node in verdict.accepted_nodes] == list(verdict.token_ids[:-1])
        output.extend(verdict.token_ids)
    assert output[:24] == expected[:24]
    engine.close_session("speculative")
    engine.close_session("neighbour")
    assert engine.num_free_slots == runner.num_slots


def test_a_true_tree_is_accepted_whole(engine: VerifierEngine, runner: ModelRunner) -> None:
    expected = incremental(engine, PROMPT, 8, SamplingParams())
    chain = TokenTree((PROMPT[-1], *expected[:7]), tuple(range(-1, 7)), (0.0,) * 8, (0,) * 8)
    verdict = ask(engine, replace(opening("s", PROMPT), tree=chain))
    assert list(verdict.token_ids) == expected
    assert verdict.accepted_nodes == tuple(range(1, 8))
    assert engine.num_free_slots == runner.num_slots - len(PROMPT) - 7


def test_stale_base_says_what_is_held(engine: VerifierEngine) -> None:
    verdict = ask(engine, opening("s", PROMPT))
    held_len = len(PROMPT) + 1
    for base in (held_len - 1, held_len + 1, 3):
        with pytest.raises(StaleBaseError) as error:
            engine.add(2, VerifyWork("s", base, (), TokenTree.of_root(verdict.token_ids[-1])))
        assert error.value.held_len == held_len
    with pytest.raises(StaleBaseError) as error:
        engine.add(3, VerifyWork("unknown", 5, (), TokenTree.of_root(1)))
    assert error.value.held_len == 0


def test_bad_items_name_the_field_and_leave_no_slot_taken(engine: VerifierEngine, runner: ModelRunner) -> None:
    good = opening("s", PROMPT)
    root = PROMPT[-1]
    cases = {
        "session_id": replace(good, session_id=""),
        "base": replace(good, session=None),
        "session.prompt_len": replace(good, session=SessionParams(SamplingParams(), 99)),
        "new_token_ids": replace(good, new_token_ids=(TINY_VOCAB_SIZE, *PROMPT)),
        "tree": replace(good, tree=TokenTree((root, 4), (-1, 1), (0.0, -1.0), (0, 0))),
        "tree.token_ids[0]": replace(good, tree=TokenTree.of_root(root + 1)),
    }
    for field, work in cases.items():
        with pytest.raises(InvalidRequestError) as error:
            engine.add(1, work)
        assert error.value.violations[0].field == field
    with pytest.raises(InvalidRequestError, match="context holds 200"):
        engine.add(1, opening("s", [1] * 201))
    assert engine.num_free_slots == runner.num_slots
    assert not engine.has_work()
    ask(engine, good)


def test_close_while_pending_frees_and_answers(engine: VerifierEngine, runner: ModelRunner) -> None:
    engine.add(1, opening("s", PROMPT))
    engine.step()
    assert engine.num_free_slots < runner.num_slots
    engine.close_session("s")
    assert engine.num_free_slots == runner.num_slots
    assert isinstance(run(engine)[1], SessionClosedError)


def test_expired_items_fail_and_free(engine: VerifierEngine, runner: ModelRunner, clock: Clock) -> None:
    engine.add(1, replace(opening("s", PROMPT), timeout_ms=50))
    engine.step()
    clock.now_s = 0.06
    assert isinstance(run(engine)[1], DeadlineExceededError)
    assert engine.num_free_slots == runner.num_slots


def test_idle_sessions_expire_and_make_room(engine: VerifierEngine, runner: ModelRunner, clock: Clock) -> None:
    ask(engine, opening("old", PROMPT))
    clock.now_s = 301.0
    ask(engine, opening("new", PROMPT))
    engine.expire_sessions()
    assert engine.num_sessions == 1
    ask(engine, opening("big 1", [1] * 195))
    engine.add(2, opening("big 2", [2] * 195))
    assert run(engine) == {}  # "big 1" may yet come back, from its drafter or from a client that is slow
    clock.now_s = 602.0
    engine.expire_sessions()
    assert isinstance(run(engine)[2], Verdict)
    assert engine.num_sessions == 1
    engine.close_session("big 2")
    assert engine.num_free_slots == runner.num_slots


class TwoInFlight(ModelRunner):
    max_num_in_flight = 2


def test_items_wait_for_slots_that_passes_in_flight_will_free(runner: ModelRunner) -> None:
    engine = VerifierEngine(
        TwoInFlight(runner.decoder, 60), VerifierConfig(max_model_len=256, max_num_chunk_tokens=512)
    )
    engine.add(1, opening("first", [1] * 50))
    engine.add(2, opening("second", [2] * 50))
    assert engine._begin_pass()
    assert not engine._begin_pass()  # no room: it waits instead of failing
    assert [item_id for item_id, _ in engine.step()] == [1]
    engine.close_session("first")
    results = run(engine)
    assert isinstance(results[2], Verdict)
    engine.close_session("second")
    assert engine.num_free_slots == 60


def test_no_room_for_a_tree_costs_speed_only(engine: VerifierEngine, runner: ModelRunner) -> None:
    ask(engine, opening("s", [3] * 15))
    ask(engine, opening("neighbour", [1] * 150))
    ask(engine, opening("younger", [2] * 100))
    committed = engine._room.get("s")
    assert committed is not None
    root = committed.token_ids[-1]
    chain = TokenTree(
        (root, *(4 + i % 90 for i in range(176))), tuple(range(-1, 176)), (0.0,) + (-1.0,) * 176, (0,) * 177
    )
    engine.add(8, VerifyWork("s", 16, (), chain))
    results = run(engine)
    assert isinstance(results[8], Verdict)
    assert len(results[8].token_ids) == 1
    assert engine.num_free_slots == runner.num_slots - 16 - 150 - 100
    for session_id in ("neighbour", "younger", "s"):
        engine.close_session(session_id)
    assert engine.num_free_slots == runner.num_slots


def test_ids_from_the_wire_never_become_addresses(engine: VerifierEngine) -> None:
    for sampling in (
        SamplingParams(min_tokens=5, stop_token_ids=(3_000_000_000,)),
        SamplingParams(logit_bias=((TINY_VOCAB_SIZE, 1.0),)),
        SamplingParams(logit_bias=((1, float("nan")),)),
        SamplingParams(logit_bias=((1, float("inf")),)),
        SamplingParams(temperature=float("nan")),
        SamplingParams(repetition_penalty=0.0),
        SamplingParams(num_log_probs=21),
    ):
        with pytest.raises(InvalidRequestError, match=r"session\.sampling"):
            engine.add(1, opening("s", PROMPT, sampling))
    ask(engine, opening("s", PROMPT))


def test_tiny_temperatures_are_greedy(engine: VerifierEngine) -> None:
    expected = incremental(engine, PROMPT, 4, GREEDY)
    assert incremental(engine, PROMPT, 4, SamplingParams(temperature=1e-38, seed=3)) == expected


def test_log_probs_are_of_the_emitted_tokens(engine: VerifierEngine) -> None:
    verdict = ask(engine, opening("s", PROMPT, SamplingParams(num_log_probs=3)))
    (log_probs,) = verdict.log_probs
    assert log_probs.top[0] == (verdict.token_ids[0], pytest.approx(log_probs.log_prob, abs=1e-5))
    assert len(log_probs.top) == 3
    assert ask(engine, opening("t", PROMPT)).log_probs == ()


def test_stop_tokens_wait_for_min_tokens(engine: VerifierEngine) -> None:
    free = incremental(engine, PROMPT, 6, SamplingParams())
    banned = incremental(engine, PROMPT, 6, SamplingParams(min_tokens=4, stop_token_ids=tuple(free[:2])))
    assert not set(banned[:4]) & set(free[:2])


class DearRows(PayingRows):
    """Learns known times instead of the machine's: each row lengthens a pass much."""

    def observe(self, num_rows: int, pass_ms: float, now_s: float) -> None:
        super().observe(num_rows, 3 + 0.6 * num_rows, now_s)


def test_nodes_that_are_not_worth_their_rows_are_left_out_where_they_may_be(runner: ModelRunner) -> None:
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200), Clock(), paying_rows=DearRows())
    expected = incremental(engine, PROMPT, 4, SamplingParams())
    unlikely = TokenTree((PROMPT[-1], *expected[:3]), (-1, 0, 1, 2), (0.0, -0.1, -12.0, -0.1), (0,) * 4)
    asked = replace(opening("s", PROMPT), tree=unlikely)
    assert len(ask(engine, asked).accepted_nodes) == 3
    verdict = ask(engine, replace(asked, may_leave_out_nodes=True))
    assert {2, 3} <= set(verdict.left_out_nodes)
    assert list(verdict.token_ids) == expected[: len(verdict.token_ids)]
