"""Choices by logits are made side by side for many sessions, and are the same ones."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from llm_service import acceptance, walks
from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.errors import InternalError
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict, VerifyWork
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.verifying import PROMPT, SAMPLED, opening, run
from tests.waiting import LIMIT_S

NUM_SESSIONS = 9


def outputs(engine: VerifierEngine, num_steps: int = 6) -> list[tuple[int, ...]]:
    """Of sessions that differ in their seeds and are always in one pass."""
    found: list[list[int]] = [[] for _ in range(NUM_SESSIONS)]
    for step in range(num_steps):
        for number, output in enumerate(found):
            if step == 0:
                work = opening(str(number), PROMPT, replace(SAMPLED, seed=number))
            else:
                base = len(PROMPT) + len(output)
                work = VerifyWork(str(number), base, (), TokenTree.of_root(output[-1]))
            engine.add(number, work)
        for number, verdict in run(engine).items():
            assert isinstance(verdict, Verdict), verdict
            found[number].extend(verdict.token_ids)
    for number in range(NUM_SESSIONS):
        engine.close_session(str(number))
    return [tuple(output) for output in found]


def test_as_many_walks_as_threads_are_under_way_at_once(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = outputs(VerifierEngine(runner, VerifierConfig(max_model_len=200)))
    real_accept, all_there = acceptance.accept, threading.Barrier(3)
    threads: set[int] = set()

    def accept(*arguments):  # type: ignore[no-untyped-def]
        if threading.get_ident() not in threads:  # each thread's first
            threads.add(threading.get_ident())
            all_there.wait(LIMIT_S)
        return real_accept(*arguments)

    monkeypatch.setattr(walks, "accept", accept)
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, num_walk_threads=3))
    assert outputs(engine) == expected
    assert len(threads) == 3


def test_a_walk_that_fails_on_another_thread_costs_its_item_alone(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_accept, failed_on = acceptance.accept, set()

    def accept(session, *arguments):  # type: ignore[no-untyped-def]
        if session.session_id == "1":
            failed_on.add(threading.current_thread().name)
            raise ValueError("the logits hold NaN")
        return real_accept(session, *arguments)

    monkeypatch.setattr(walks, "accept", accept)
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, num_walk_threads=2))
    for number in range(NUM_SESSIONS):
        engine.add(number, opening(str(number), PROMPT, SAMPLED))
    results = run(engine)
    assert isinstance(results.pop(1), InternalError)
    assert all(isinstance(result, Verdict) for result in results.values())
    assert failed_on == {"walks_0"}


def test_few_walks_need_no_other_thread(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    real_accept, names = acceptance.accept, set()

    def accept(*arguments):  # type: ignore[no-untyped-def]
        names.add(threading.current_thread().name)
        return real_accept(*arguments)

    monkeypatch.setattr(walks, "accept", accept)
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, num_walk_threads=8))
    engine.add(1, opening("a", PROMPT, SAMPLED))
    engine.add(2, opening("b", PROMPT, SAMPLED))
    assert len(run(engine)) == 2
    assert names == {threading.current_thread().name}
