"""A pass that fails costs nobody but the item it fails with: that one is given up after the second time, the others go on."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.errors import InternalError
from specgrove.kernels.rows import PassRows
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from specgrove.program.decoder import Decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import FatalEngineError
from tests.llm.chats import Chat, run_chats
from tests.llm.conftest import RunnerAhead
from tests.llm.verifying import GREEDY, PROMPT, ask, incremental, opening, run

POISON = 95


class Poisonable(ModelRunner):
    """Fails in passes that compute the token ``POISON``: when they begin, when they end, or when the oldest beside them ends.

    The last is how devices tell: by whatever they are asked next.
    """

    def __init__(self, decoder: Decoder, num_slots: int, when: str, max_num_in_flight: int = 1) -> None:
        super().__init__(decoder, num_slots)
        self.max_num_in_flight = max_num_in_flight
        self.num_failures = 0
        self._when = when
        self._is_poisoned: list[bool] = []

    def start(self, rows: PassRows) -> None:
        is_poisoned = POISON in rows.token_ids
        if is_poisoned and self._when == "start":
            self.num_failures += 1
            raise ZeroDivisionError("poison")
        super().start(rows)
        self._is_poisoned.append(is_poisoned)

    def finish(self) -> PassOutput:
        output = super().finish()
        is_poisoned = any(self._is_poisoned) if self._when == "beside" else self._is_poisoned[0]
        del self._is_poisoned[0]
        if is_poisoned:
            self.num_failures += 1
            raise ZeroDivisionError("poison")
        return output

    def discard(self) -> None:
        super().discard()
        self._is_poisoned = []


@pytest.mark.parametrize(
    ("when", "max_num_in_flight"), [("start", 1), ("finish", 1), ("start", 2), ("finish", 2), ("beside", 2)]
)
@pytest.mark.parametrize("num_slots", [400, 120])
def test_the_guilty_fails_alone(runner: ModelRunner, when: str, max_num_in_flight: int, num_slots: int) -> None:
    rng = random.Random(2)
    prompts = [[rng.randrange(POISON) for _ in range(rng.randrange(1, 30))] for _ in range(4)]
    alone = VerifierEngine(runner, VerifierConfig(max_model_len=200))
    expected = [[t for t in incremental(alone, prompt, 20, GREEDY) if t != POISON][:12] for prompt in prompts]
    chats = [Chat(f"s{i}", prompt, len(expected[i]), *([(0, 5), (0, 1)][i % 2])) for i, prompt in enumerate(prompts)]
    guilty = Chat("guilty", [1, 2, POISON, 3], 12)
    poisonable = Poisonable(runner.decoder, num_slots, when, max_num_in_flight)
    engine = VerifierEngine(poisonable, VerifierConfig(max_model_len=num_slots, max_num_chunk_tokens=64))
    chats.insert(2, guilty)
    expected.insert(2, [])
    run_chats(engine, chats, expected, rng)
    assert [chat.output for chat in chats] == expected
    assert isinstance(guilty.failure, InternalError)
    assert str(guilty.failure) == "this request made the service fail twice (ZeroDivisionError: poison)"
    assert [chat.failure for chat in chats if chat is not guilty] == [None] * 4
    assert poisonable.num_failures == 2 or when == "beside"
    assert engine.num_free_slots == num_slots


def test_a_passing_failure_costs_nothing_but_time(runner: ModelRunner) -> None:
    expected = incremental(VerifierEngine(runner, VerifierConfig(max_model_len=200)), PROMPT, 12, GREEDY)

    class FailsEveryFifth(ModelRunner):
        num_passes = 0

        def start(self, rows: PassRows) -> None:
            self.num_passes += 1
            if self.num_passes % 5 == 0:
                raise MemoryError("short of memory")
            super().start(rows)

    failing = FailsEveryFifth(runner.decoder, 400)
    engine = VerifierEngine(failing, VerifierConfig(max_model_len=200))
    chats = [Chat(f"s{i}", PROMPT, 12, num_steps=steps) for i, steps in enumerate([1, 12, 4])]
    run_chats(engine, chats, [expected] * 3, random.Random(1))
    assert [chat.output for chat in chats] == [expected] * 3
    assert engine.num_free_slots == 400


@pytest.mark.parametrize("when", ["finish", "beside"])
def test_a_suspect_has_its_turn_while_others_keep_all_stages_busy(runner: ModelRunner, when: str) -> None:
    """Two passes are always under way where two sessions never end: none is empty by itself."""
    poisonable = Poisonable(runner.decoder, 600, when, max_num_in_flight=2)
    engine = VerifierEngine(poisonable, VerifierConfig(max_model_len=300, max_num_chunk_tokens=64))
    for item_id in (1, 2, 3):
        engine.add(item_id, replace(opening(f"busy {item_id}", [item_id] * 3), num_steps=200))
    engine.add(4, opening("guilty", [1, 2, POISON, 3]))
    ended, num_steps = {}, 0
    while 4 not in ended:
        ended |= {item_id: result for item_id, result in engine.step() if not isinstance(result, Verdict)}
        num_steps += 1
    assert num_steps < 12
    assert list(ended) == [4]
    assert poisonable.num_failures == (2 if when == "finish" else 3)


def test_a_tree_that_cannot_be_walked_is_walked_again_though_a_pass_runs_ahead(
    runner: ModelRunner, runner_ahead: RunnerAhead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was begun on the tokens that were not taken is not taken for what comes next."""
    from llm_service import acceptance, walks

    expected = incremental(VerifierEngine(runner, VerifierConfig(max_model_len=200)), PROMPT, 12, GREEDY)
    real_accept, calls = acceptance.accept, []

    def accept(session, tree, answers, sent_nodes):  # type: ignore[no-untyped-def]
        calls.append(len(session.token_ids))
        if len(calls) == 5:
            raise IndexError("once")
        return real_accept(session, tree, answers, sent_nodes)

    monkeypatch.setattr(walks, "accept", accept)
    engine = VerifierEngine(runner_ahead, VerifierConfig(max_model_len=200))
    engine.add(1, replace(opening("s", PROMPT), num_steps=12))
    output: list[int] = []
    while engine.has_work():
        for _, verdict in engine.step():
            assert isinstance(verdict, Verdict), verdict
            output.extend(verdict.token_ids)
    assert calls[4] == calls[5]
    assert output == expected
    engine.close_session("s")
    assert engine.num_free_slots == runner_ahead.num_slots


def test_an_item_whose_tree_cannot_be_walked_fails_alone(
    engine: VerifierEngine, runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_service import acceptance, walks

    real_accept, refused = acceptance.accept, []

    def accept(session, tree, answers, sent_nodes):  # type: ignore[no-untyped-def]
        if session.session_id == "guilty":
            refused.append(session.session_id)
            raise IndexError("no such token")
        return real_accept(session, tree, answers, sent_nodes)

    monkeypatch.setattr(walks, "accept", accept)
    engine.add(1, opening("guilty", PROMPT))
    engine.add(2, opening("innocent", PROMPT))
    results = run(engine)
    assert isinstance(results[2], Verdict)
    assert isinstance(results[1], InternalError)
    assert len(refused) == 2
    engine.close_session("innocent")
    assert engine.num_free_slots == runner.num_slots


def test_a_fatal_failure_is_not_tried_again(runner: ModelRunner) -> None:
    class Lost(ModelRunner):
        def start(self, rows: PassRows) -> None:
            raise FatalEngineError("the device is lost")

    engine = VerifierEngine(Lost(runner.decoder, 400), VerifierConfig(max_model_len=200))
    engine.add(1, opening("s", PROMPT))
    with pytest.raises(FatalEngineError):
        engine.step()


def test_a_later_item_of_a_session_starts_with_a_clean_record(runner: ModelRunner) -> None:
    poisonable = Poisonable(runner.decoder, 400, "start")
    engine = VerifierEngine(poisonable, VerifierConfig(max_model_len=200))
    root = ask(engine, opening("s", PROMPT)).token_ids[-1]
    assert root != POISON
    work = VerifyWork("s", len(PROMPT) + 1, (), TokenTree((root, POISON), (-1, 0), (0.0, -1.0), (0, 0)))
    engine.add(2, work)
    assert isinstance(run(engine)[2], InternalError)
    assert engine.num_sessions == 0
    assert ask(engine, opening("s", PROMPT)).token_ids[-1] == root
