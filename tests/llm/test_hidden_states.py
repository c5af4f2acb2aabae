"""Hidden states that verdicts carry: transformers' to bfloat16's rounding, one row a token, however they come about, and none unasked."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import HiddenStates, joined
from specgrove.loop.works import PromptProgress, Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.conftest import RunnerAhead
from tests.llm.hidden_states import check
from tests.llm.verifying import PROMPT, SAMPLED, incremental, opening, random_tree, run

NUM_LAYERS = 3
LAYERS = (0, 1, NUM_LAYERS)
NUM_TOKENS = 24


def wanting(work: VerifyWork, layers: tuple[int, ...] = LAYERS, window: int = 200, num_top: int = 0) -> VerifyWork:
    assert work.session is not None
    return replace(
        work, session=replace(work.session, hidden_layers=layers, hidden_window=window, num_row_top_k=num_top)
    )


class Taker:
    """Takes what an engine tells of its sessions, and looks that no row is told twice or left out."""

    def __init__(self, engine: VerifierEngine, *, closes: bool = False) -> None:
        """``closes``: the sessions of items that have ended."""
        self.engine = engine
        self.states: dict[int, HiddenStates] = {}
        self._closes = closes

    def verdict(self, item_id: int, work: VerifyWork) -> Verdict:
        """The last one of the item."""
        self.engine.add(item_id, work)
        found: Verdict | None = None
        while self.engine.has_work():
            for number, result in self.engine.step():
                assert isinstance(result, Verdict | PromptProgress), result
                self._take(number, result)
                if number == item_id and isinstance(result, Verdict):
                    found = result
        assert found is not None
        return found

    def _take(self, item_id: int, result: Verdict | PromptProgress) -> None:
        states = result.hidden_states
        if isinstance(result, Verdict):
            assert states is not None
            assert (states.first_position, states.num_tokens) == (result.base - 1, len(result.token_ids))
            if self._closes and not result.has_more:
                self.engine.close_session(f"s{item_id}")
        if states is not None:
            states.check()
            before = self.states.get(item_id)
            assert before is None or before.end_position == states.first_position
            self.states[item_id] = joined((before, states)) or states


def engine_of(runner: ModelRunner, max_num_chunk_tokens: int = 4, **fields: float) -> VerifierEngine:
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=max_num_chunk_tokens, **fields)  # type: ignore[arg-type]
    return VerifierEngine(runner, config)


@pytest.mark.parametrize("sampling", [SamplingParams(), SAMPLED])
def test_trees_tell_a_row_for_each_token(runner: ModelRunner, tiny_llama: Path, sampling: SamplingParams) -> None:
    rng = random.Random(3)
    taker = Taker(engine_of(runner))
    output = incremental(engine_of(runner), PROMPT, NUM_TOKENS + 8, sampling)
    committed = list(PROMPT)
    work = wanting(opening("s", PROMPT, sampling))
    while len(committed) < len(PROMPT) + NUM_TOKENS:
        committed += taker.verdict(1, work).token_ids
        ahead = output[len(committed) - len(PROMPT) :][:5]
        work = VerifyWork("s", len(committed), (), random_tree(rng, committed[-1], ahead))
    assert committed[len(PROMPT) :] == output[: len(committed) - len(PROMPT)]
    states = taker.states[1]
    assert (states.first_position, states.end_position) == (0, len(committed) - 1)
    check(tiny_llama, committed, states)


@pytest.mark.parametrize("window", [0, 1, 5, 100])
@pytest.mark.parametrize("max_num_chunk_tokens", [1, 4, 100])
def test_the_window_of_a_prompt(runner: ModelRunner, tiny_llama: Path, window: int, max_num_chunk_tokens: int) -> None:
    taker = Taker(engine_of(runner, max_num_chunk_tokens))
    verdict = taker.verdict(1, wanting(opening("s", PROMPT), (1,), window))
    states = taker.states[1]
    assert states.num_tokens == min(window, len(PROMPT) - 1) + 1
    check(tiny_llama, [*PROMPT, *verdict.token_ids], states)


@pytest.mark.parametrize("interval_s", [0.0, 10.0])
def test_steps_ahead_and_passes_ahead_tell_them_too(
    runner_ahead: RunnerAhead, tiny_llama: Path, interval_s: float
) -> None:
    """Also those that share a message; sessions of one pass may want different layers, or none."""
    taker = Taker(engine_of(runner_ahead, stream_interval_s=interval_s))
    output = incremental(taker.engine, PROMPT, NUM_TOKENS, SamplingParams())
    before = runner_ahead.num_ahead
    taker.engine.add(2, replace(wanting(opening("t", PROMPT[:5]), (1,)), num_steps=NUM_TOKENS))
    verdict = taker.verdict(1, replace(wanting(opening("s", PROMPT)), num_steps=NUM_TOKENS))
    assert runner_ahead.num_ahead > before
    states = taker.states[1]
    assert states.end_position == verdict.base + len(verdict.token_ids) - 1
    check(tiny_llama, [*PROMPT, *output], states)
    assert taker.states[2].layers == (1,)
    others = incremental(taker.engine, PROMPT[:5], NUM_TOKENS, SamplingParams())
    check(tiny_llama, [*PROMPT[:5], *others], taker.states[2])


def test_sessions_that_give_way_tell_no_row_twice(runner: ModelRunner, tiny_llama: Path) -> None:
    taker = Taker(engine_of(ModelRunner(runner.decoder, 60), stream_interval_s=1.0), closes=True)
    output = incremental(engine_of(runner), PROMPT, NUM_TOKENS, SamplingParams())
    prompts = {number: PROMPT[: len(PROMPT) - number] for number in range(4)}
    for number, prompt in prompts.items():
        if number:
            taker.engine.add(number, replace(wanting(opening(f"s{number}", prompt)), num_steps=NUM_TOKENS))
    taker.verdict(0, replace(wanting(opening("s0", PROMPT)), num_steps=NUM_TOKENS))
    assert taker.engine.counts.num_preemptions > 0
    for number, prompt in prompts.items():
        states = taker.states[number]
        # What another one has computed is told to that one alone.
        assert states.first_position < len(prompt)
        assert states.end_position == len(prompt) + NUM_TOKENS - 1
    assert min(states.first_position for states in taker.states.values()) == 0
    check(tiny_llama, [*PROMPT, *output], taker.states[0])


class FailsOnce(ModelRunner):
    """Fails at the end of one pass."""

    num_to_fail = 1

    def finish(self) -> PassOutput:
        output = super().finish()
        self.num_to_fail -= 1
        if self.num_to_fail == 0:
            raise ZeroDivisionError("poison")
        return output


@pytest.mark.parametrize("failing", range(2, 7))
def test_passes_that_fail_tell_nothing(runner: ModelRunner, tiny_llama: Path, failing: int) -> None:
    """Of the prompt, of which there are three, and of what follows."""
    fails_once = FailsOnce(runner.decoder, 400)
    taker = Taker(engine_of(fails_once))
    fails_once.num_to_fail = failing
    taker.verdict(1, replace(wanting(opening("s", PROMPT)), num_steps=NUM_TOKENS))
    assert taker.engine.counts.num_failed_passes == 1
    output = incremental(taker.engine, PROMPT, NUM_TOKENS, SamplingParams())
    check(tiny_llama, [*PROMPT, *output], taker.states[1])


class Recording(ModelRunner):
    """Remembers which layers passes handed out."""

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner.decoder, runner.num_slots)
        self.layers: list[tuple[int, ...]] = []

    def finish(self) -> PassOutput:
        output = super().finish()
        self.layers.append(tuple(range(len(output.hidden))))
        return output


def test_passes_hand_nothing_out_where_nobody_asks(runner: ModelRunner) -> None:
    """Sessions that want a short window of a long prompt don't ask before it begins."""
    recording = Recording(runner)
    engine = engine_of(recording)
    engine.add(1, replace(opening("s", PROMPT), num_steps=5))
    (verdict,) = (result for result in run(engine).values() if isinstance(result, Verdict))
    assert verdict.hidden_states is None
    assert verdict.row_top_k == ()
    assert set(recording.layers) == {()}
    recording.layers.clear()
    engine.add(2, wanting(opening("t", PROMPT[::-1]), (1,), window=2))
    run(engine)
    assert recording.layers == [(), (), (0,)]


@pytest.mark.parametrize("num_before", [1, 6])
def test_items_without_them_pay_nothing_and_later_ones_tell_their_own(
    runner: ModelRunner, tiny_llama: Path, num_before: int
) -> None:
    """Not of the prompt either, should the session be opened so. What an item then wants begins with the last token before it."""
    recording = Recording(runner)
    engine = engine_of(recording)
    engine.add(1, replace(wanting(opening("s", PROMPT)), num_steps=num_before, tells_hidden_states=False))
    committed = list(PROMPT)
    for result in run_all(engine):
        assert result.hidden_states is None
        committed += result.token_ids
    assert set(recording.layers) == {()}
    taker = Taker(engine)
    first_position = len(committed) - 1
    work = VerifyWork("s", len(committed), (), TokenTree.of_root(committed[-1]), num_steps=5)
    taker.verdict(2, work)
    states = taker.states[2]
    assert (states.first_position, states.num_tokens) == (first_position, 5)
    assert recording.layers[-1] != ()
    output = incremental(engine_of(runner), PROMPT, num_before + 5, SamplingParams())
    check(tiny_llama, [*PROMPT, *output], states)
    recording.layers.clear()
    work = replace(
        work, base=len(PROMPT) + num_before + 5, tree=TokenTree.of_root(output[-1]), tells_hidden_states=False
    )
    engine.add(3, work)
    assert {result.hidden_states for result in run_all(engine)} == {None}
    assert set(recording.layers) == {()}


def test_sessions_that_were_opened_without_them_tell_nothing_of_the_prompt_when_it_is_read_again(
    runner: ModelRunner,
) -> None:
    """They gave way, and what drafters were told meanwhile begins behind the prompt."""
    taker = Taker(
        engine_of(ModelRunner(runner.decoder, 60), stream_interval_s=1.0, has_prefix_cache=False), closes=True
    )
    prompts = {number: PROMPT[: len(PROMPT) - number] for number in range(1, 5)}
    committed = {number: list(prompt) for number, prompt in prompts.items()}
    for number, prompt in prompts.items():
        opened = replace(wanting(opening(f"s{number}", prompt)), tells_hidden_states=False)
        taker.engine.add(number, opened)
        for verdict in run_all(taker.engine):
            committed[number] += verdict.token_ids
    works = [
        VerifyWork(f"s{number}", len(ids), (), TokenTree.of_root(ids[-1]), num_steps=NUM_TOKENS)
        for number, ids in committed.items()
    ]
    for number, work in enumerate(works[1:], start=2):
        taker.engine.add(number, work)
    taker.verdict(1, works[0])
    assert taker.engine.counts.num_preemptions > 0
    for number, ids in committed.items():
        assert taker.states[number].first_position == len(ids) - 1
        assert taker.states[number].num_tokens == NUM_TOKENS


def run_all(engine: VerifierEngine) -> list[Verdict]:
    """All verdicts, till nothing is left to do."""
    found = []
    while engine.has_work():
        for _, result in engine.step():
            assert isinstance(result, Verdict), result
            found.append(result)
    return found


def test_rows_tell_what_follows_them_most_probably(runner: ModelRunner, tiny_llama: Path) -> None:
    """Also those that were not accepted; the tokens are the same as without."""
    from transformers import AutoModelForCausalLM

    engine = engine_of(runner)
    output = incremental(engine, PROMPT, 3, SamplingParams())
    tree = TokenTree((PROMPT[-1], output[0], 50, output[1]), (-1, 0, 0, 1), (0.0, -1.0, -1.0, -1.0), (0, 0, 0, 0))
    engine.add(1, replace(wanting(opening("s", PROMPT), (), num_top=4), tree=tree))
    (verdict,) = run(engine).values()
    assert isinstance(verdict, Verdict)
    assert list(verdict.token_ids) == output
    assert verdict.hidden_states is None
    end = len(PROMPT)
    assert [(row.position, row.token_id) for row in verdict.row_top_k] == [
        (end - 1, PROMPT[-1]), (end, output[0]), (end, 50), (end + 1, output[1]),
    ]  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with torch.no_grad():
        wanted = model(torch.tensor([[*PROMPT, 50]])).logits[0, -1].log_softmax(dim=-1).topk(4)
    assert [token_id for token_id, _ in verdict.row_top_k[2].top] == wanted.indices.tolist()
    assert [value for _, value in verdict.row_top_k[2].top] == pytest.approx(wanted.values.tolist(), abs=1e-4)


def test_layers_that_are_not_there_are_refused(runner: ModelRunner) -> None:
    engine = engine_of(runner)
    with pytest.raises(
        InvalidRequestError, match=r"session.hidden_layers: \[4\] can't be given; those from 0 to 3 can"
    ):
        engine.add(1, wanting(opening("s", PROMPT), (1, 4)))
