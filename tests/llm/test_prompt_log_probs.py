"""Log-probabilities of a prompt's tokens: those of the model, with the same bits however the prompt is read, each told once."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.errors import InternalError, InvalidRequestError
from specgrove.kernels.rows import PassRows
from specgrove.loop.request import SamplingParams
from specgrove.loop.works import LogProbs, PromptProgress, Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import ModelRunner
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.conftest import RunnerAhead
from tests.llm.verifying import GREEDY, PROMPT, ask, opening

NUM_TOP = 5


def asking(
    prompt: Sequence[int], session_id: str = "s", *, start: int = 1, num_top: int = NUM_TOP, output: Sequence[int] = ()
) -> VerifyWork:
    """The work that opens a session, which has some output already."""
    work = opening(session_id, [*prompt, *output])
    assert work.session is not None
    session = replace(work.session, prompt_len=len(prompt), num_prompt_log_probs=num_top, prompt_log_probs_start=start)
    return replace(work, session=session)


def engine_of(runner: ModelRunner, max_num_chunk_tokens: int = 200, max_model_len: int = 200) -> VerifierEngine:
    return VerifierEngine(
        runner, VerifierConfig(max_model_len=max_model_len, max_num_chunk_tokens=max_num_chunk_tokens)
    )


def told(engine: VerifierEngine, *works: VerifyWork, start: int = 1) -> list[list[LogProbs]]:
    """What is told of each prompt, from ``start`` on, until every item has its verdict. Nothing comes twice, or after the verdict."""
    found: list[list[LogProbs]] = [[] for _ in works]
    has_verdict = [False] * len(works)
    for number, work in enumerate(works):
        engine.add(number, work)
    while engine.has_work():
        for number, result in engine.step():
            assert not has_verdict[number]
            if isinstance(result, PromptProgress):
                assert result.log_probs_start == start + len(found[number])
                assert result.num_tokens == start + len(found[number]) + len(result.log_probs) - 1
                found[number].extend(result.log_probs)
                assert engine.has_more(result)
            else:
                assert isinstance(result, Verdict), result
                has_verdict[number] = True
    assert all(has_verdict)
    return found


def one_by_one(engine: VerifierEngine, prompt: Sequence[int]) -> list[LogProbs]:
    """The same as outputs: a bias, which log-probabilities don't know, has each of the prompt's tokens chosen after those before it."""
    found = []
    for place in range(1, len(prompt)):
        forcing = SamplingParams(num_log_probs=NUM_TOP, logit_bias=((prompt[place], 100.0),))
        verdict = ask(engine, opening("forced", list(prompt[:place]), forcing))
        assert verdict.token_ids == (prompt[place],)
        found += verdict.log_probs
        engine.close_session("forced")
    return found


@pytest.fixture(scope="module")
def expected(runner: ModelRunner) -> list[LogProbs]:
    (found,) = told(engine_of(runner), asking(PROMPT))
    return found


def test_they_are_those_of_transformers(tiny_llama: Path, expected: list[LogProbs]) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        log_probs = model(torch.tensor([PROMPT])).logits[0].log_softmax(dim=-1)
    assert len(expected) == len(PROMPT) - 1
    for row, token_id, found in zip(log_probs, PROMPT[1:], expected, strict=False):
        assert found.log_prob == pytest.approx(float(row[token_id]), abs=1e-4)
        assert found.rank == 1 + int((row > row[token_id]).sum())
        values, ids = row.topk(NUM_TOP)
        assert [token for token, _ in found.top] == ids.tolist()
        assert [value for _, value in found.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_they_have_the_bits_of_the_same_tokens_as_output(runner: ModelRunner, expected: list[LogProbs]) -> None:
    assert one_by_one(engine_of(runner), PROMPT) == expected


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_they_have_the_same_bits_however_the_prompt_is_read(runner: ModelRunner, data: st.DataObject) -> None:
    """In whatever chunks, beside whatever others, with one pass in flight or two, and with some of it known."""
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    prompts = [[rng.randrange(TINY_VOCAB_SIZE) for _ in range(rng.randrange(1, 40))] for _ in range(3)]
    alone = [told(engine_of(runner, 1), asking(prompt))[0] for prompt in prompts]
    shared = ModelRunner(runner.decoder, 400)
    shared.max_num_in_flight = data.draw(st.sampled_from([1, 2]))
    engine = engine_of(shared, data.draw(st.integers(1, 60)))
    silent = opening("silent", [rng.randrange(TINY_VOCAB_SIZE) for _ in range(30)])
    found = told(engine, *(asking(prompt, f"s{i}") for i, prompt in enumerate(prompts)), silent)
    assert found == [*alone, []]
    # A replay: the router has some of them, and of the output, too.
    start = data.draw(st.integers(1, len(prompts[0])))
    (rest,) = told(engine_of(runner, 7), asking(prompts[0], start=start, output=[3, 1, 4]), start=start)
    assert rest == alone[0][start - 1 :]


def test_no_most_probable_ones_unless_they_are_asked_for(runner: ModelRunner, expected: list[LogProbs]) -> None:
    (found,) = told(engine_of(runner), asking(PROMPT, num_top=0))
    assert found == [replace(entry, top=()) for entry in expected]


class Recording(ModelRunner):
    """Counts rows with logits, and may spoil those of a pass or fail at its end."""

    def __init__(self, of: ModelRunner, num_slots: int = 400) -> None:
        super().__init__(of.decoder, num_slots)
        self.nums_known: list[int] = []
        self.fails_at = self.spoils_at = -1

    def start(self, rows: PassRows) -> None:
        self.nums_known.append(len(rows.known))
        super().start(rows)

    def finish(self) -> PassOutput:
        output = super().finish()
        number = len(self.nums_known) - 1
        if number == self.fails_at:
            raise MemoryError("short of memory")
        if number == self.spoils_at:
            return replace(output, log_probs=[*output.log_probs[:-1], None])
        return output


def test_logits_are_made_for_those_who_ask_and_not_twice(runner: ModelRunner) -> None:
    recording = Recording(runner)
    engine = engine_of(recording, 8)
    told(engine, opening("silent", PROMPT))
    assert set(recording.nums_known) == {0}
    recording.nums_known.clear()
    told(engine, asking(PROMPT))
    assert recording.nums_known == [8, 2]
    recording.nums_known.clear()
    told(engine, asking(PROMPT, start=6), start=6)
    assert recording.nums_known == [5]  # what comes before them is cached
    recording.nums_known.clear()
    told(engine, asking(PROMPT, start=len(PROMPT)))
    assert set(recording.nums_known) == {0}


def test_a_pass_has_a_bounded_number_of_them(runner: ModelRunner) -> None:
    recording = Recording(runner)
    rng = random.Random(4)
    prompts = [[rng.randrange(TINY_VOCAB_SIZE) for _ in range(80)] for _ in range(2)]
    silent = opening("silent", prompts[0])
    found = told(engine_of(recording), asking(prompts[0]), asking(prompts[1], "t"), silent)
    assert found[:2] == [told(engine_of(runner, 9), asking(prompt))[0] for prompt in prompts]
    assert max(recording.nums_known) == 64
    assert sum(recording.nums_known) == 2 * 79


def test_a_session_that_had_to_give_its_slots_back_is_not_told_again(
    runner: ModelRunner, expected: list[LogProbs]
) -> None:
    """Too few slots for both: the younger one begins, gives way to the older one's output, and computes its prompt again."""
    recording = Recording(runner, num_slots=24)
    engine = engine_of(recording, 4, max_model_len=24)
    engine.add(1, replace(opening("old", PROMPT[:4]), num_steps=18))
    engine.add(2, asking(PROMPT, "young"))
    found: list[LogProbs] = []
    verdicts = 0
    while engine.has_work():
        for number, result in engine.step():
            if number == 2 and isinstance(result, PromptProgress):
                assert result.log_probs_start == 1 + len(found)
                found += result.log_probs
            verdicts += isinstance(result, Verdict)
        engine.expire_sessions()
        if verdicts >= 18:
            engine.close_session("old")
    assert found == expected


def test_a_pass_that_fails_is_computed_again_and_told_once(runner: ModelRunner, expected: list[LogProbs]) -> None:
    recording = Recording(runner)
    recording.fails_at = 1
    assert told(engine_of(recording, 4), asking(PROMPT)) == [expected]


def test_logits_that_are_no_numbers_fail_their_own_item_only(runner: ModelRunner, expected: list[LogProbs]) -> None:
    recording = Recording(runner)
    recording.spoils_at = 0
    engine = engine_of(recording)
    engine.add(0, asking(PROMPT))
    engine.add(1, opening("other", PROMPT))
    results: dict[int, object] = {}
    while engine.has_work():
        results.update(engine.step())
    assert isinstance(results[0], InternalError)
    assert "NaN" in str(results[0])
    assert isinstance(results[1], Verdict)
    assert engine.num_free_slots == 400 - len(PROMPT)
    assert told(engine, asking(PROMPT)) == [expected]


def test_nothing_runs_ahead_of_a_pass_that_tells_them(runner_ahead: RunnerAhead, expected: list[LogProbs]) -> None:
    """Its logits would be gone."""
    engine = engine_of(runner_ahead)
    work = replace(asking(PROMPT), num_steps=6)
    engine.add(0, work)
    results = []
    while engine.has_work():
        results += [result for _, result in engine.step()]
    assert isinstance(results[0], PromptProgress)
    assert list(results[0].log_probs) == expected
    assert runner_ahead.num_ahead > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prompt_log_probs": 21}, "session.num_prompt_log_probs: must be at most 20"),
        ({"num_prompt_log_probs": 1, "prompt_log_probs_start": 0}, "the first token, at place 0, has none"),
    ],
)
def test_wrong_wishes_are_refused(engine: VerifierEngine, fields: dict[str, int], message: str) -> None:
    work = opening("s", PROMPT, GREEDY)
    assert work.session is not None
    with pytest.raises(InvalidRequestError, match=message):
        engine.add(1, replace(work, session=replace(work.session, **fields)))
