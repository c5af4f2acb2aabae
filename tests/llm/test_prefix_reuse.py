"""Prompts that begin alike are computed once, and nobody can tell it by the bits of what comes out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.errors import InternalError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.loop.works import LogProbs, PromptProgress, Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.chats import Chat, run_chats
from tests.llm.verifying import GREEDY, SAMPLED, Clock, ask, incremental, opening, run
from tests.models.families import VOCAB_SIZE, load_tiny

RNG = random.Random(5)
PROMPT = [RNG.randrange(3, VOCAB_SIZE) for _ in range(24)]
FURTHER = [RNG.randrange(3, VOCAB_SIZE) for _ in range(6)]
TOLD = SamplingParams(temperature=0.8, seed=3, num_log_probs=5)
NUM_OUTPUT_TOKENS = 6


def engine_of(runner: ModelRunner, *, has_prefix_cache: bool = True, **fields: int) -> VerifierEngine:
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=7, has_prefix_cache=has_prefix_cache)
    return VerifierEngine(runner, replace(config, **fields), Clock())


def told(
    engine: VerifierEngine, name: str, prompt: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[LogProbs, ...]]]:
    """A turn of a conversation: tokens with their log-probabilities, bit for bit. The session is closed after it."""
    work = opening(name, list(prompt), TOLD)
    committed = list(prompt)
    found = []
    while len(committed) < len(prompt) + NUM_OUTPUT_TOKENS:
        verdict = ask(engine, work)
        found.append((verdict.token_ids, verdict.log_probs))
        committed += verdict.token_ids
        work = VerifyWork(name, len(committed), (), TokenTree.of_root(committed[-1]))
    engine.close_session(name)
    engine.check_slots()
    return found


VARIANTS = (
    "llama",
    "mistral-window",
    "qwen3",
    "opt",
    "falcon-7b",
    "falcon-rw",
    "gpt-bigcode",
    "mpt",
    "gemma2",
    "gemma3",
)


@pytest.mark.parametrize(
    ("variant", "kind"),
    [*((variant, "bfloat16") for variant in VARIANTS), ("llama", "float32"), ("llama", "int8"), ("gemma3", "int8")],
)
def test_second_turns_have_the_bits_of_first_ones(variant: str, kind: str, tmp_path: Path) -> None:
    runner = ModelRunner(load_tiny(variant, kind, tmp_path), num_slots=200)
    with_cache, without = engine_of(runner), engine_of(runner, has_prefix_cache=False)
    first = told(with_cache, "first", PROMPT)
    second_prompt = [*PROMPT, *(token_id for ids, _ in first for token_id in ids), *FURTHER]
    num_rows = with_cache.counts.num_rows
    second = told(with_cache, "second", second_prompt)
    assert with_cache.counts.num_rows - num_rows == len(FURTHER) + 1 + NUM_OUTPUT_TOKENS - 1
    assert told(without, "first", PROMPT) == first
    assert told(without, "second", second_prompt) == second


def test_sessions_side_by_side_share_what_they_begin_with(runner: ModelRunner) -> None:
    """They come together: none has anything yet. One computes what all begin with, the others wait for it."""
    alone = engine_of(runner, has_prefix_cache=False)
    prompts = [[*PROMPT, *PROMPT, *FURTHER[:number]] for number in range(1, 5)]
    expected = [incremental(alone, prompt, 8, GREEDY) for prompt in prompts]
    engine = engine_of(runner)
    chats = [Chat(f"s{i}", prompt, 8, num_steps=8) for i, prompt in enumerate(prompts)]
    run_chats(engine, chats, [output[:8] for output in expected], random.Random(1))
    assert [chat.output for chat in chats] == [output[:8] for output in expected]
    num_own = [2 * len(PROMPT) + number + 7 for number in range(1, 5)]
    assert alone.counts.num_rows >= sum(num_own)
    # Those below _MIN_REPEATED_LEN are not waited for: a few of the last ones are computed twice.
    assert engine.counts.num_rows < sum(num_own) - 3 * len(PROMPT)
    engine.check_slots()


def test_salts_share_nothing(runner: ModelRunner) -> None:
    engine = engine_of(runner)
    nums_cached = []
    for number, salt in enumerate(("", "a", "b", "a")):
        work = opening(f"s{number}", PROMPT)
        assert work.session is not None
        verdict = ask(engine, replace(work, session=replace(work.session, cache_salt=salt)))
        nums_cached.append(verdict.num_cached_tokens)
    assert nums_cached == [0, 0, 0, len(PROMPT) - 1]


def test_it_says_how_much_it_had(runner: ModelRunner) -> None:
    """With the first verdict, and of what the session had not computed itself."""
    engine = engine_of(runner)
    assert ask(engine, opening("a", PROMPT)).num_cached_tokens == 0
    first = ask(engine, opening("b", [*PROMPT, *FURTHER]))
    assert first.num_cached_tokens == len(PROMPT) - 1
    root = first.token_ids[-1]
    second = ask(engine, VerifyWork("b", len(PROMPT) + len(FURTHER) + 1, (), TokenTree.of_root(root)))
    assert second.num_cached_tokens == 0
    assert engine.counts.num_reused_tokens == len(PROMPT) - 1
    assert engine.counts.num_opened_tokens == 2 * len(PROMPT) + len(FURTHER)


def test_switched_off_nothing_is_kept(runner: ModelRunner) -> None:
    engine = engine_of(runner, has_prefix_cache=False)
    for number in range(2):
        assert ask(engine, opening(f"s{number}", PROMPT)).num_cached_tokens == 0
        engine.close_session(f"s{number}")
    assert engine.counts.num_rows == 2 * len(PROMPT)
    assert (engine.num_cached_slots, engine.num_free_slots) == (0, runner.num_slots)


@pytest.mark.parametrize("start", [1, 9])
def test_log_probabilities_of_a_prompt_are_told_all_the_same(runner: ModelRunner, start: int) -> None:
    def asked(engine: VerifierEngine) -> list[LogProbs]:
        work = opening("s", [*PROMPT, *FURTHER])
        assert work.session is not None
        params = replace(work.session, num_prompt_log_probs=3, prompt_log_probs_start=start)
        engine.add(1, replace(work, session=params))
        found: list[LogProbs] = []
        while engine.has_work():
            found += [e for _, result in engine.step() if isinstance(result, PromptProgress) for e in result.log_probs]
        return found

    with_cache, without = engine_of(runner), engine_of(runner, has_prefix_cache=False)
    run_once(with_cache, PROMPT)
    num_rows = with_cache.counts.num_rows
    found = asked(with_cache)
    assert found == asked(without)
    assert len(found) == len(PROMPT) + len(FURTHER) - start
    # What comes before the first row that is asked is not computed again.
    assert with_cache.counts.num_rows - num_rows == len(PROMPT) + len(FURTHER) - (start - 1)


@pytest.mark.parametrize("window", [0, 4, 100])
def test_nothing_is_computed_for_hidden_states_alone(runner: ModelRunner, window: int) -> None:
    """A window begins where the session's own rows do."""

    def asked(engine: VerifierEngine) -> list[object]:
        work = opening("s", [*PROMPT, *FURTHER])
        assert work.session is not None
        params = replace(work.session, hidden_layers=(1, 2), hidden_window=window, num_row_top_k=3)
        engine.add(1, replace(work, session=params))
        found = []
        while engine.has_work():
            for _, result in engine.step():
                states = result.hidden_states
                if states is not None:
                    found += [
                        states.from_position(p).before(p + 1) for p in range(states.first_position, states.end_position)
                    ]
                if isinstance(result, Verdict):
                    found += [result.token_ids, result.row_top_k]
        return found

    with_cache, without = engine_of(runner), engine_of(runner, has_prefix_cache=False)
    run_once(with_cache, PROMPT)
    num_rows, num_new = with_cache.counts.num_rows, len(FURTHER)
    found, everything = asked(with_cache), asked(without)
    assert with_cache.counts.num_rows - num_rows == num_new
    num_told = min(window, num_new - 1) + 1
    assert found == everything[len(everything) - len(found) :]
    assert sum(isinstance(part, HiddenStates) for part in found) == num_told


def run_once(engine: VerifierEngine, prompt: list[int]) -> None:
    ask(engine, opening("before", prompt))
    engine.close_session("before")


def test_cached_slots_are_given_away_before_anybody_gives_way(runner: ModelRunner) -> None:
    """Those used longest ago; an output that needs all the room gets it."""
    rng = random.Random(2)
    engine = engine_of(ModelRunner(runner.decoder, 100))
    prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(30)] for _ in range(4)]
    for prompt in prompts:
        run_once(engine, prompt)
    assert engine.num_free_slots == 100
    assert ask(engine, opening("s", prompts[-1])).num_cached_tokens == 29
    assert ask(engine, opening("t", prompts[0])).num_cached_tokens < 29
    assert (engine.counts.num_preemptions, engine.num_waiting_sessions) == (0, 0)
    assert engine.counts.num_evicted_slots > 0
    for name in "st":
        engine.close_session(name)
    expected = incremental(engine_of(runner, has_prefix_cache=False), prompts[1], 65, SAMPLED_ON)
    assert incremental(engine, prompts[1], 65, SAMPLED_ON) == expected
    engine.check_slots()


SAMPLED_ON = replace(SAMPLED, stop_token_ids=())


def test_who_gave_way_finds_what_is_left_of_its_slots(runner: ModelRunner) -> None:
    engine = engine_of(ModelRunner(runner.decoder, 60))
    rng = random.Random(3)
    prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(20)] for _ in range(2)]
    alone = engine_of(runner, has_prefix_cache=False)
    expected = [incremental(alone, prompt, 30, GREEDY)[:30] for prompt in prompts]
    chats = [Chat(f"s{i}", prompt, 30, num_steps=5) for i, prompt in enumerate(prompts)]
    run_chats(engine, chats, expected, rng)
    assert [chat.output for chat in chats] == expected
    assert engine.counts.num_preemptions > 0
    assert engine.counts.num_rows < sum(20 + 30 for _ in prompts) + 30
    assert engine.counts.num_reused_tokens == 0  # what somebody had computed is not counted as found
    engine.check_slots()


class Poisoned(ModelRunner):
    """Its logits are no numbers: perhaps what it wrote isn't, either."""

    is_poisoned = False

    def finish(self) -> PassOutput:
        output = super().finish()
        return (
            replace(output, choices=(), logits=torch.full((1, VOCAB_SIZE), torch.nan)) if self.is_poisoned else output
        )


@pytest.mark.parametrize("chunk_len", [100, 7])
def test_nothing_is_kept_of_a_failed_request_that_others_don_t_have(runner: ModelRunner, chunk_len: int) -> None:
    """Else whoever asks for the same again would be given what made it fail."""
    poisoned = Poisoned(runner.decoder, 100)
    engine = engine_of(poisoned, max_num_chunk_tokens=chunk_len)
    ask(engine, opening("other", PROMPT[:9]))
    num_of_others = engine.num_cached_slots
    poisoned.is_poisoned = True
    engine.add(1, opening("at once", PROMPT))
    (failure,) = run(engine).values()
    assert isinstance(failure, InternalError)
    assert engine.num_cached_slots == num_of_others == 8
    poisoned.is_poisoned = False
    output = list(ask(engine, opening("s", PROMPT)).token_ids)
    poisoned.is_poisoned = True
    poisoned.is_poisoned = True
    engine.add(1, VerifyWork("s", len(PROMPT) + 1, (), TokenTree.of_root(output[-1])))
    (failure,) = run(engine).values()
    assert isinstance(failure, InternalError)
    assert engine.num_cached_slots == num_of_others
    engine.check_slots()
