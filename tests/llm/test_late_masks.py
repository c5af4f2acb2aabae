"""Masks that are not there yet: who needs them waits alone, and nothing is chosen without."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from llm_service.config import VerifierConfig
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict
from specgrove.runtime.model_runner import ModelRunner
from specgrove.structures.masks import Answer, Question
from specgrove.structures.structured_output import StructuredOutput
from specgrove.tokenizer import Tokenizer
from tests.llm.masks_here import MasksHere
from tests.llm.structured import GREEDY, TOKENIZER, made, whole
from tests.llm.verifying import PROMPT, Clock, ask, incremental, opening, run
from tests.structures.examples import regex
from tests.waiting import LIMIT_S


class Held(MasksHere):
    """Answers when the test says so."""

    def __init__(self, vocabulary: Tokenizer) -> None:
        super().__init__(vocabulary)
        self.asked: list[Question] = []

    def open(self, structure: StructuredOutput, deliver: Callable[[Answer], None]) -> int:
        return super().open(structure, lambda answer: deliver(replace(answer, spent_s=0.0)))

    def ask(self, question: Question) -> None:
        self.asked.append(question)

    def answer(self) -> None:
        """What was asked up to now."""
        asked, self.asked = self.asked, []
        for question in asked:
            super().ask(question)


def held(runner: ModelRunner) -> tuple[VerifierEngine, Held]:
    source = Held(TOKENIZER)
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=4)
    return VerifierEngine(runner, config, Clock(), structures=Structures(source)), source


@pytest.mark.parametrize("num_nodes", [1, 3])
def test_who_waits_for_masks_holds_up_nobody(runner: ModelRunner, num_nodes: int) -> None:
    sampling = replace(GREEDY, structured_output=regex("([a-c][d-f][g-i]){9}"))
    expected, _ = whole(made(runner), sampling)
    plain = incremental(made(runner), PROMPT, 6, SamplingParams())
    engine, source = held(runner)
    chain = TokenTree(
        (PROMPT[-1], *expected[: num_nodes - 1]), tuple(range(-1, num_nodes - 1)), (0.0,) * num_nodes, (0,) * num_nodes
    )
    engine.add(1, replace(opening("waits", PROMPT, sampling), tree=chain, num_steps=2))
    engine.add(2, replace(opening("goes on", PROMPT), num_steps=6))
    output: list[int] = []
    while engine.has_work():
        assert engine.counts.num_passes < 20, "it does not sit out"
        for item_id, result in engine.step():
            assert item_id == 2
            assert isinstance(result, Verdict)
            output += result.token_ids
    assert output == plain
    # It has read its prompt meanwhile, and its masks are all that it needs.
    assert engine.num_sessions == 2
    source.answer()
    assert engine.has_work()
    (verdict,) = run(engine).values()
    assert isinstance(verdict, Verdict)
    assert verdict.has_more
    assert list(verdict.token_ids) == expected[:num_nodes]
    assert not engine.has_work()
    source.answer()
    (verdict,) = run(engine).values()
    assert isinstance(verdict, Verdict)
    assert verdict.token_ids == (expected[num_nodes],)
    engine.check_slots()


def test_a_quick_one_begins_with_its_question_and_what_is_late_is_computed_again(runner: ModelRunner) -> None:
    sampling = replace(GREEDY, structured_output=regex("([a-c][d-f][g-i]){9}"))
    prompt = PROMPT[:3]
    expected, _ = whole(made(runner), sampling, prompt)
    engine, source = held(runner)
    output: list[int] = []

    def pass_of_one() -> None:
        num_passes = engine.counts.num_passes
        for _, verdict in engine.step():
            assert isinstance(verdict, Verdict)
            output.extend(verdict.token_ids)
        assert engine.counts.num_passes == num_passes + 1

    engine.add(1, replace(opening("s", prompt, sampling), num_steps=20))
    for _ in range(4):
        source.answer()
        pass_of_one()
    # It has shown itself quick: this pass does not wait for its question's answer, and gives nothing without.
    pass_of_one()
    assert engine.counts.num_late_masks == 1
    assert len(output) == 4
    source.answer()
    pass_of_one()
    assert len(output) == 5
    # From now on it waits, for a while.
    for _ in range(12):
        assert not engine.step()
        assert not engine.has_work()
        source.answer()
        pass_of_one()
    assert output == expected[:17]
    assert engine.counts.num_late_masks == 1
    engine.check_slots()


def test_nodes_without_a_mask_are_not_chosen_at(runner: ModelRunner) -> None:
    class OnlyRoots(MasksHere):
        def open(self, structure: StructuredOutput, deliver: Callable[[Answer], None]) -> int:
            return super().open(structure, lambda answer: None if answer.node > 1 else deliver(answer))

    sampling = replace(GREEDY, structured_output=regex("([a-c][d-f][g-i]){9}"))
    expected, _ = whole(made(runner), sampling)
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=4)
    engine = VerifierEngine(runner, config, structures=Structures(OnlyRoots(TOKENIZER)))
    chain = TokenTree((PROMPT[-1], *expected[:5]), tuple(range(-1, 5)), (0.0,) * 6, (0,) * 6)
    verdict = ask(engine, replace(opening("s", PROMPT, sampling), tree=chain))
    assert verdict.accepted_nodes == (1,)
    assert list(verdict.token_ids) == expected[:2]
    # Its drafter was right about the second node, so that one is not told as a wrong one.
    assert verdict.left_out_nodes == (2, 3, 4, 5)
    engine.check_slots()


def test_tokens_do_not_wait_for_the_next_ones_masks(runner: ModelRunner) -> None:
    """Though verdicts that follow one another share a message."""
    source = Held(TOKENIZER)
    config = VerifierConfig(max_model_len=200, stream_interval_s=100.0)
    engine = VerifierEngine(runner, config, Clock(), structures=Structures(source))
    engine.add(1, replace(opening("s", PROMPT, replace(GREEDY, structured_output=regex("[a-c]{20}"))), num_steps=9))
    for _ in range(3):
        assert not run(engine)
        source.answer()
        (verdict,) = run(engine).values()
        assert isinstance(verdict, Verdict)
        assert len(verdict.token_ids) == 1
        assert verdict.has_more


def test_news_that_come_while_others_are_taken_are_not_lost() -> None:
    structures = Structures(MasksHere(TOKENIZER))
    has_tried = threading.Event()

    def tell() -> None:
        """To the end, or as far as the lock lets it go now."""
        if structures._changed.acquire(blocking=False):
            structures._changed.release()
            structures._tell()
            has_tried.set()
        else:
            has_tried.set()
            structures._tell()

    teller = threading.Thread(target=tell)

    class Watched(Structures):
        """Something is told in the middle of ``take_news``."""

        def __getattribute__(self, name: str) -> object:
            found = super().__getattribute__(name)
            if name == "_has_news" and teller.ident is None:
                teller.start()
                assert has_tried.wait(LIMIT_S)
            return found

    structures.__class__ = Watched
    assert not structures.take_news()
    teller.join()
    assert structures.has_news


@pytest.mark.parametrize("end", ["close", "reset", "deadline"])
def test_a_session_that_ends_while_it_waits_is_forgotten(runner: ModelRunner, end: str) -> None:
    source, clock = Held(TOKENIZER), Clock()
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200), clock, structures=Structures(source))
    sampling = replace(GREEDY, structured_output=regex("[a-c]{20}"))
    engine.add(1, replace(opening("s", PROMPT, sampling), timeout_ms=500))
    while engine.has_work():
        assert engine.counts.num_passes < 20, "it does not sit out"
        assert not engine.step()
    if end == "close":
        engine.close_session("s")
    elif end == "reset":
        engine.reset()
    else:
        clock.now_s += 1
        engine.expire_sessions()
    assert len(run(engine)) == (end != "reset")
    assert source.num_open == 0
    assert engine.num_free_slots == runner.num_slots
