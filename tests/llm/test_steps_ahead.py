"""Steps that the verifier makes by itself where nothing is drafted: the same tokens, and they end when they must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    SessionClosedError,
    StaleBaseError,
)
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.conftest import RunnerAhead
from tests.llm.verifying import GREEDY, PROMPT, SAMPLED, Clock, ask, incremental, opening


@pytest.fixture(params=["alone", "ahead"])
def runner(request: pytest.FixtureRequest, runner: ModelRunner, runner_ahead: RunnerAhead) -> ModelRunner:
    """One that takes a pass at a time, and one that takes the next before the last has ended."""
    return runner if request.param == "alone" else runner_ahead


def assert_ended(engine: VerifierEngine) -> None:
    """At most a pass is under way that was begun for sessions that have ended."""
    if engine.has_work():
        assert engine.step() == []
    assert not engine.has_work()


def steps_of(engine: VerifierEngine, num_verdicts: dict[int, int]) -> dict[int, list[Verdict]]:
    """The verdicts by item, until each item has that many."""
    found: dict[int, list[Verdict]] = {item_id: [] for item_id in num_verdicts}
    while any(len(found[item_id]) < number for item_id, number in num_verdicts.items()):
        for item_id, result in engine.step():
            assert isinstance(result, Verdict), result
            found.setdefault(item_id, []).append(result)
    return found


@pytest.mark.parametrize("sampling", [GREEDY, replace(SAMPLED, stop_token_ids=())])
def test_steps_made_ahead_are_the_incremental_ones(engine: VerifierEngine, sampling: SamplingParams) -> None:
    prompts = [PROMPT, PROMPT[:3]]
    expected = [incremental(engine, prompt, 12, sampling) for prompt in prompts]
    num_free_slots = engine.num_free_slots
    for item_id, prompt in enumerate(prompts):
        work = replace(opening(f"s{item_id}", prompt, sampling), num_steps=12)
        engine.add(item_id, work)
    found = steps_of(engine, {0: 12, 1: 12})
    assert_ended(engine)
    for item_id, prompt in enumerate(prompts):
        verdicts = found[item_id]
        assert [token_id for verdict in verdicts for token_id in verdict.token_ids] == expected[item_id]
        assert [verdict.base for verdict in verdicts] == list(range(len(prompt), len(prompt) + 12))
        assert [engine.has_more(verdict) for verdict in verdicts] == [True] * 11 + [False]
        # The session goes on from there as from any other.
        token_ids = expected[item_id]
        work = VerifyWork(f"s{item_id}", len(prompt) + 12, (), TokenTree.of_root(token_ids[-1]))
        assert ask(engine, work).base == len(prompt) + 12
        engine.close_session(f"s{item_id}")
    assert engine.num_free_slots == num_free_slots


def test_a_stop_token_ends_steps_made_ahead(engine: VerifierEngine) -> None:
    expected = incremental(engine, PROMPT, 12, GREEDY)
    stop = expected[5]
    sampling = replace(GREEDY, stop_token_ids=(stop,))
    engine.add(3, replace(opening("s", PROMPT, sampling), num_steps=12))
    (verdicts,) = steps_of(engine, {3: expected.index(stop) + 1}).values()
    assert not verdicts[-1].has_more
    assert_ended(engine)


def test_steps_made_ahead_end_with_their_session(engine: VerifierEngine) -> None:
    num_free_slots = engine.num_free_slots
    engine.add(3, replace(opening("s", PROMPT), num_steps=50))
    steps_of(engine, {3: 2})
    with pytest.raises(StaleBaseError):
        engine.add(4, VerifyWork("s", len(PROMPT) + 2, (), TokenTree.of_root(1)))
    engine.close_session("s")
    ((item_id, result),) = engine.step()
    assert item_id == 3
    assert isinstance(result, SessionClosedError)
    assert_ended(engine)
    assert engine.num_free_slots == num_free_slots


@pytest.mark.parametrize(("num_steps", "field"), [(0, "num_steps"), (257, "num_steps"), (191, "tree")])
def test_steps_ahead_must_fit(engine: VerifierEngine, num_steps: int, field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.add(1, replace(opening("s", PROMPT), num_steps=num_steps))
    assert caught.value.violations[0].field == field


def test_steps_made_ahead_can_be_called_off(engine: VerifierEngine) -> None:
    engine.add(3, replace(opening("s", PROMPT), num_steps=50))
    engine.add(4, replace(opening("t", PROMPT), num_steps=5))
    steps_of(engine, {3: 2})
    engine.finish_early([3])
    found = steps_of(engine, {3: 1})
    assert [verdict.has_more for verdict in found[3]] == [False]
    while engine.has_work():
        assert 3 not in [item_id for item_id, _ in engine.step()]


@pytest.fixture
def slow_talker(runner: ModelRunner, clock: Clock) -> VerifierEngine:
    """Gives verdicts at most once a second."""
    return VerifierEngine(
        runner, VerifierConfig(max_model_len=200, max_num_chunk_tokens=64, stream_interval_s=1.0), clock
    )


def verdicts_of(engine: VerifierEngine, clock: Clock, step_s: float) -> list[Verdict]:
    """All that come, each pass taking ``step_s``."""
    found = []
    while engine.has_work():
        clock.now_s += step_s
        for _, result in engine.step():
            assert isinstance(result, Verdict), result
            found.append(result)
    return found


@pytest.mark.parametrize(
    ("step_s", "sizes"),
    [(0.4, [1, 3, 3, 3, 2]), (0.0, [1, 11]), (1.0, [1] * 12)],
)
@pytest.mark.parametrize("num_log_probs", [None, 2])
def test_steps_that_follow_quickly_share_a_verdict(
    slow_talker: VerifierEngine, clock: Clock, step_s: float, sizes: list[int], num_log_probs: int | None
) -> None:
    sampling = replace(SAMPLED, stop_token_ids=(), num_log_probs=num_log_probs)
    expected = incremental(slow_talker, PROMPT, 12, sampling)
    slow_talker.add(1, replace(opening("s", PROMPT, sampling), num_steps=12))
    verdicts = verdicts_of(slow_talker, clock, step_s)
    assert [token_id for verdict in verdicts for token_id in verdict.token_ids] == expected
    assert [verdict.num_steps for verdict in verdicts] == [len(verdict.token_ids) for verdict in verdicts] == sizes
    assert [verdict.base for verdict in verdicts] == [len(PROMPT) + sum(sizes[:i]) for i in range(len(sizes))]
    assert [verdict.has_more for verdict in verdicts] == [True] * (len(sizes) - 1) + [False]
    assert all(len(verdict.log_probs) == ((num_log_probs and len(verdict.token_ids)) or 0) for verdict in verdicts)
    assert all(verdict.pass_ms > 0 for verdict in verdicts)


def test_tokens_that_wait_go_out_before_what_may_take_long(slow_talker: VerifierEngine) -> None:
    expected = incremental(slow_talker, PROMPT, 12, GREEDY)
    slow_talker.add(1, replace(opening("s", PROMPT), num_steps=50))
    assert len(slow_talker.step()) == 1
    assert [slow_talker.step() for _ in range(3)] == [[], [], []]
    num_passes = slow_talker.counts.num_passes
    slow_talker.add(2, opening("t", PROMPT))
    ((item_id, verdict),) = slow_talker.step()
    assert isinstance(verdict, Verdict)
    assert (item_id, verdict.token_ids, verdict.num_steps) == (1, tuple(expected[1:4]), 3)
    assert slow_talker.counts.num_passes == num_passes


def test_tokens_that_wait_go_out_with_the_last_verdict(slow_talker: VerifierEngine, clock: Clock) -> None:
    expected = incremental(slow_talker, PROMPT, 12, GREEDY)
    slow_talker.add(1, replace(opening("s", PROMPT), num_steps=50))
    assert [len(slow_talker.step()) for _ in range(3)] == [1, 0, 0]
    slow_talker.finish_early([1, 77])
    (last,) = verdicts_of(slow_talker, clock, step_s=0.0)
    assert (last.token_ids, last.num_steps, last.has_more) == (tuple(expected[1:4]), 3, False)


def test_a_session_that_goes_on_sends_nothing_early(slow_talker: VerifierEngine) -> None:
    (first,) = incremental(slow_talker, PROMPT[:3], 1, GREEDY)
    slow_talker.add(1, opening("t", PROMPT[:3]))
    assert len(slow_talker.step()) == 1
    slow_talker.add(2, replace(opening("s", PROMPT), num_steps=50))
    assert len(slow_talker.step()) == 1
    assert slow_talker.step() == []
    goes_on = VerifyWork("t", 4, (), TokenTree.of_root(first), num_steps=3)
    slow_talker.add(3, goes_on)
    assert [slow_talker.step() for _ in range(2)] == [[], []]  # its first tokens wait too: the last are not long ago
    ((item_id, verdict),) = slow_talker.step()
    assert isinstance(verdict, Verdict)
    assert (item_id, verdict.num_steps, verdict.has_more) == (3, 3, False)


def test_tokens_that_wait_go_out_before_a_failure(slow_talker: VerifierEngine, clock: Clock) -> None:
    expected = incremental(slow_talker, PROMPT, 12, GREEDY)
    slow_talker.add(1, replace(opening("s", PROMPT), num_steps=50, timeout_ms=500))
    for _ in range(3):
        slow_talker.step()
    clock.now_s += 0.6
    (_, verdict), (_, error) = slow_talker.step()
    assert isinstance(verdict, Verdict)
    assert verdict.token_ids == tuple(expected[1:3])
    assert isinstance(error, DeadlineExceededError)
    assert_ended(slow_talker)


def test_tokens_that_wait_go_out_before_the_session_is_closed(slow_talker: VerifierEngine) -> None:
    expected = incremental(slow_talker, PROMPT, 12, GREEDY)
    num_free_slots = slow_talker.num_free_slots
    slow_talker.add(1, replace(opening("s", PROMPT), num_steps=50))
    for _ in range(3):
        slow_talker.step()
    slow_talker.close_session("s")
    (_, verdict), (_, error) = slow_talker.step()
    assert isinstance(verdict, Verdict)
    assert verdict.token_ids == tuple(expected[1:3])
    assert isinstance(error, SessionClosedError)
    assert_ended(slow_talker)
    assert slow_talker.num_free_slots == num_free_slots


@pytest.fixture
def ahead(runner_ahead: RunnerAhead, clock: Clock) -> VerifierEngine:
    runner_ahead.num_ahead = 0
    return VerifierEngine(runner_ahead, VerifierConfig(max_model_len=200, max_num_chunk_tokens=64), clock)


def test_passes_are_begun_before_the_last_has_ended(ahead: VerifierEngine, runner_ahead: RunnerAhead) -> None:
    for item_id in range(3):
        ahead.add(item_id, replace(opening(f"s{item_id}", PROMPT[: 4 + item_id]), num_steps=10))
    steps_of(ahead, dict.fromkeys(range(3), 10))
    assert runner_ahead.num_ahead == 9
    assert ahead.counts.num_passes == 10  # none was for nothing


def test_nothing_is_begun_ahead_where_others_would_wait(
    ahead: VerifierEngine, runner_ahead: RunnerAhead, clock: Clock
) -> None:
    first = ask(ahead, opening("drafting", PROMPT[:4])).token_ids[0]
    ahead.add(1, replace(opening("going on", PROMPT), num_steps=20))
    steps_of(ahead, {1: 5})
    assert runner_ahead.num_ahead == 0
    tree = TokenTree((first, 5), (-1, 0), (0.0, -1.0), (0, 1))
    ahead.add(2, VerifyWork("drafting", 5, (), tree))
    found = steps_of(ahead, {2: 1, 1: 1})
    assert found[2][0].base == 5
    clock.now_s += 1.0  # whoever drafted does so no more
    steps_of(ahead, {1: 3})
    assert runner_ahead.num_ahead == 3
    ahead.add(
        3, VerifyWork("drafting", 5 + len(found[2][0].token_ids), (), TokenTree.of_root(found[2][0].token_ids[-1]))
    )
    assert 3 in dict(ahead.step()) | dict(ahead.step())


def test_more_sessions_than_a_pass_ahead_may_have_go_one_by_one(
    ahead: VerifierEngine, runner_ahead: RunnerAhead
) -> None:
    for item_id in range(4):
        ahead.add(item_id, replace(opening(f"s{item_id}", PROMPT), num_steps=5))
    steps_of(ahead, dict.fromkeys(range(4), 5))
    assert runner_ahead.num_ahead == 0


@pytest.mark.parametrize("end", ["stop token", "close", "finish early", "expire", "reset"])
def test_a_pass_begun_for_a_session_that_ends_leaves_nothing(
    end: str, ahead: VerifierEngine, runner_ahead: RunnerAhead, clock: Clock
) -> None:
    num_free_slots = ahead.num_free_slots
    expected = incremental(ahead, PROMPT, 12, GREEDY)
    other = incremental(ahead, PROMPT[:5], 12, GREEDY)
    sampling = replace(GREEDY, stop_token_ids=(expected[3],)) if end == "stop token" else GREEDY
    timeout_ms = 500 if end == "expire" else None
    ahead.add(1, replace(opening("s", PROMPT, sampling), num_steps=12, timeout_ms=timeout_ms))
    ahead.add(2, replace(opening("t", PROMPT[:5]), num_steps=12))
    found = steps_of(ahead, {1: 3, 2: 3})
    assert runner_ahead.num_ahead >= 3
    if end == "close":
        ahead.close_session("s")
    elif end == "finish early":
        ahead.finish_early([1])
    elif end == "expire":
        clock.now_s += 0.6
    elif end == "reset":
        ahead.reset()
        assert (ahead.num_free_slots, ahead.has_work()) == (num_free_slots, False)
        assert incremental(ahead, PROMPT, 12, GREEDY) == expected
        return
    while ahead.has_work():
        for item_id, result in ahead.step():
            if isinstance(result, Verdict):
                found[item_id].append(result)
            else:
                assert item_id == 1
                assert isinstance(result, SessionClosedError | DeadlineExceededError)
    output = [token_id for verdict in found[1] for token_id in verdict.token_ids]
    assert output == expected[: len(output)]
    assert len(output) < 12
    assert [token_id for verdict in found[2] for token_id in verdict.token_ids] == other
    for session_id in ("s", "t"):
        ahead.close_session(session_id)
    assert ahead.num_free_slots == num_free_slots
