"""How far a long prompt is: told now and then to those who ask, and never in place of a verdict."""

from __future__ import annotations

from dataclasses import replace

from llm_service.verifier import VerifierEngine
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from tests.llm.verifying import GREEDY, Clock, incremental, opening

LONG_PROMPT = [3 + i % 50 for i in range(30)]  # the engine reads 4 tokens in a pass


def asking(work: VerifyWork) -> VerifyWork:
    assert work.session is not None
    return replace(work, session=replace(work.session, wants_prompt_progress=True))


def results_with(engine: VerifierEngine, clock: Clock, pass_s: float) -> list[object]:
    """All results, where each pass takes so long."""
    found: list[object] = []
    while engine.has_work():
        found += [result for _, result in engine.step()]
        clock.now_s += pass_s
    return found


def test_progress_is_told_after_each_pass_but_the_last(engine: VerifierEngine, clock: Clock) -> None:
    engine.add(1, asking(opening("s", LONG_PROMPT)))
    *progress, verdict = results_with(engine, clock, pass_s=1.0)
    expected = incremental(engine, LONG_PROMPT, 1, GREEDY)
    assert progress == [PromptProgress(num_tokens) for num_tokens in range(4, 30, 4)]
    assert all(engine.has_more(result) for result in progress if isinstance(result, PromptProgress))
    assert isinstance(verdict, Verdict)
    assert list(verdict.token_ids) == expected


def test_fast_passes_tell_seldom(engine: VerifierEngine, clock: Clock) -> None:
    engine.add(1, asking(opening("s", LONG_PROMPT)))
    *progress, _ = results_with(engine, clock, pass_s=0.125)  # two passes to a quarter of a second
    assert progress == [PromptProgress(num_tokens) for num_tokens in (4, 12, 20, 28)]


def test_who_does_not_ask_is_told_nothing(engine: VerifierEngine, clock: Clock) -> None:
    engine.add(1, opening("s", LONG_PROMPT))
    (verdict,) = results_with(engine, clock, pass_s=1.0)
    assert isinstance(verdict, Verdict)


def test_a_service_that_drains_reads_the_prompt_to_its_end(engine: VerifierEngine, clock: Clock) -> None:
    engine.add(1, replace(asking(opening("s", LONG_PROMPT)), num_steps=9))
    assert engine.step()[0][1] == PromptProgress(4)
    engine.finish_early([1])
    *progress, verdict = results_with(engine, clock, pass_s=1.0)
    assert progress[-1] == PromptProgress(28)
    assert isinstance(verdict, Verdict)
    assert not verdict.has_more
