"""Outputs that must look like something: they do, and with any trees, batches and histories they are the incremental ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_service.config import VerifierConfig
from llm_service.structure import Structures
from llm_service.verifier import VerifierEngine
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SessionParams, Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import ModelRunner
from specgrove.structures import masks
from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.structured_output import StructuredOutput
from tests.conftest import TINY_VOCAB_SIZE
from tests.llm.chats import Chat, run_chats
from tests.llm.masks_here import MasksHere
from tests.llm.structured import GREEDY, TOKENIZER, first, made, whole
from tests.llm.verifying import PROMPT, SAMPLED, Clock, ask, incremental, opening, random_tree, run
from tests.structures.examples import EOS, choice, fits, random_structure, regex, schema


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), is_sampled=st.booleans())
def test_any_trees_give_the_incremental_tokens_and_these_fit(runner: ModelRunner, seed: int, is_sampled: bool) -> None:
    rng = random.Random(seed)
    structure = random_structure(rng)
    sampling = replace(SAMPLED, seed=seed, stop_token_ids=(EOS,)) if is_sampled else GREEDY
    sampling = replace(sampling, structured_output=structure)
    engine = made(runner)
    prompt = [rng.randrange(TINY_VOCAB_SIZE) for _ in range(rng.randrange(1, 20))]
    expected, has_ended = whole(engine, sampling, prompt)
    if has_ended:
        assert fits(structure, TOKENIZER.decode(expected)), TOKENIZER.decode(expected)
        expected.append(EOS)
    output: list[int] = []
    while len(output) < len(expected):
        committed = prompt + output
        tree = random_tree(rng, committed[-1], expected[len(output) : len(output) + 5] or [EOS])
        if output and rng.random() > 0.2:
            work = VerifyWork("speculative", len(committed), (), tree)
        else:  # the session is opened anew, as after a restart
            work = VerifyWork("speculative", 0, tuple(committed), tree, SessionParams(sampling, len(prompt)))
            if rng.random() < 0.3:
                engine = made(runner)
        if rng.random() < 0.5:  # a neighbour in the batch, with the same structure
            engine.add(9, opening("neighbour", [rng.randrange(TINY_VOCAB_SIZE) for _ in range(6)], sampling))
        engine.add(1, work)
        verdict = run(engine)[1]
        assert isinstance(verdict, Verdict), verdict
        assert [tree.token_ids[node] for node in verdict.accepted_nodes] == list(verdict.token_ids[:-1])
        output.extend(verdict.token_ids)
        assert EOS not in output[:-1]
    assert output[: len(expected)] == expected


def test_a_true_tree_is_accepted_whole(runner: ModelRunner) -> None:
    sampling = replace(GREEDY, structured_output=schema({"type": "array", "items": {"type": "integer"}, "maxItems": 2}))
    expected = [*whole(made(runner), sampling)[0], EOS]
    assert len(expected) > 3
    size = len(expected)
    # Drafts that go on behind the end are no output.
    chain = TokenTree((PROMPT[-1], *expected, 9), tuple(range(-1, size + 1)), (0.0,) * (size + 2), (0,) * (size + 2))
    verdict = ask(made(runner), replace(opening("s", PROMPT, sampling), tree=chain))
    assert list(verdict.token_ids) == expected
    assert verdict.accepted_nodes == tuple(range(1, size))


def test_no_row_is_spent_on_what_can_not_be(runner: ModelRunner) -> None:
    sampling = replace(GREEDY, structured_output=choice("abc", "abd"))
    (a, b, c, x), ends = (TOKENIZER.encode(letter)[0] for letter in "abcx"), (EOS, 1)
    token_ids = (PROMPT[-1], x, a, b, b, x, ends[0], c, ends[0], ends[1])
    parents = (-1, 0, 0, 1, 2, 2, 2, 4, 7, 4)
    tree = TokenTree(token_ids, parents, (0.0,) * 10, (0,) * 10)
    engine = made(runner)
    biased = replace(sampling, logit_bias=((a, 100.0), (b, 100.0), (c, 100.0)))
    verdict = ask(engine, replace(opening("s", PROMPT, biased), tree=tree))
    assert verdict.token_ids == (a, b, c, EOS)
    assert verdict.accepted_nodes == (2, 4, 7)
    assert engine.counts.num_rows == len(PROMPT) + 3


@pytest.mark.parametrize("min_tokens", [0, 4, 30])
def test_it_ends_where_the_structure_may_and_before_min_tokens_where_it_must(
    runner: ModelRunner, min_tokens: int
) -> None:
    # Nothing is as probable as the end, wherever it is allowed.
    sampling = SamplingParams(stop_token_ids=(EOS,), logit_bias=((EOS, 100.0),), min_tokens=min_tokens)
    output, has_ended = whole(made(runner), replace(sampling, structured_output=regex("[a-c]{2,9}")))
    assert has_ended
    assert len(TOKENIZER.decode(output)) >= 2
    assert len(output) >= min_tokens if min_tokens < 9 else TOKENIZER.decode(output) == TOKENIZER.decode(output)[:9]
    if min_tokens == 0:
        assert len(TOKENIZER.decode(output)) <= 4  # a token has three characters at most
    if min_tokens == 30:
        assert len(TOKENIZER.decode(output)) == 9


def test_a_stop_token_with_a_text_ends_it_within_and_where_it_may_end(runner: ModelRunner) -> None:
    (letter,), (other,) = TOKENIZER.encode("b"), TOKENIZER.encode("z")
    for stop in (letter, other):
        sampling = SamplingParams(stop_token_ids=(stop,), logit_bias=((stop, 100.0),))
        output, has_ended = whole(made(runner), replace(sampling, structured_output=regex("a[abc]{3}")))
        assert has_ended
        assert TOKENIZER.decode(output)[0] == "a"
        # What is no letter of it is allowed at its end alone.
        assert (len(TOKENIZER.decode(output)) == 4) == (stop == other)


def test_a_bias_can_not_bring_a_token_in(runner: ModelRunner) -> None:
    (forbidden,) = TOKENIZER.encode("x")
    sampling = replace(GREEDY, logit_bias=((forbidden, 100.0),), structured_output=choice("yes", "no"))
    output, has_ended = whole(made(runner), sampling)
    assert TOKENIZER.decode(output) in ("yes", "no")
    assert has_ended


def test_log_probs_are_of_what_is_allowed(runner: ModelRunner) -> None:
    sampling = replace(GREEDY, num_log_probs=5, structured_output=regex("[ab]c"))
    (log_probs,) = first(made(runner), sampling).log_probs
    ids = [token_id for token_id, _ in log_probs.top]
    assert {TOKENIZER.decode([token_id]) for token_id in ids} == {"a", "b"}
    assert sum(2.718281828459045**value for _, value in log_probs.top) == pytest.approx(1, abs=1e-5)
    assert log_probs.log_prob == log_probs.top[0][1]


def last_of(engine: VerifierEngine, sampling: SamplingParams) -> Verdict:
    """Raises what it ends with."""
    engine.add(1, replace(opening("s", PROMPT, sampling), num_steps=9))
    (result,) = run(engine).values()
    if isinstance(result, Exception):
        raise result
    assert isinstance(result, Verdict)
    return result


class Failing(ModelRunner):
    """Once, its logits end in the middle of a tree."""

    is_spoilt = False

    def finish(self) -> PassOutput:
        output = super().finish()
        if self.is_spoilt and len(output.logits) > 2:
            self.is_spoilt = False
            return replace(output, logits=output.logits[:2])
        return output


def test_a_walk_that_failed_is_taken_back(runner: ModelRunner) -> None:
    sampling = replace(GREEDY, structured_output=regex("([a-c][d-f][g-i]){9}"))
    expected, _ = whole(made(runner), sampling)
    failing = Failing(runner.decoder, 400)
    engine = made(failing)
    chain = TokenTree((PROMPT[-1], *expected[:6]), tuple(range(-1, 6)), (0.0,) * 7, (0,) * 7)
    failing.is_spoilt = True
    verdict = ask(engine, replace(opening("s", PROMPT, sampling), tree=chain))
    assert list(verdict.token_ids) == expected[:7]
    assert not failing.is_spoilt


@pytest.mark.parametrize("num_nodes", [0, 5])
def test_sessions_that_give_way_to_others_go_on_with_theirs(runner: ModelRunner, num_nodes: int) -> None:
    rng = random.Random(5)
    structures = [regex("([a-c][d-f][g-i]){20}"), regex("([0-4][5-9]){20}"), regex("(x[a-z]y){20}")]
    samplings = [replace(SAMPLED, stop_token_ids=(), structured_output=structure) for structure in structures]
    expected = [whole(made(runner), replace(sampling, stop_token_ids=(EOS,)))[0][:30] for sampling in samplings]
    few = ModelRunner(runner.decoder, 60)
    engine = VerifierEngine(few, VerifierConfig(max_model_len=60), Clock(), structures=Structures(MasksHere(TOKENIZER)))
    chats = [
        Chat(f"s{i}", PROMPT, 30, num_nodes, 1 if num_nodes else 8, sampling) for i, sampling in enumerate(samplings)
    ]
    run_chats(engine, chats, expected, rng)
    assert [chat.output for chat in chats] == expected
    assert engine.counts.num_preemptions > 0


@pytest.mark.parametrize(
    ("structure", "problem"),
    [
        (regex("(a"), "unclosed group"),
        (schema({"type": "array", "uniqueItems": True}), "uniqueItems"),
        (regex("[A-Z]é"), "has none with which the output could go on"),
    ],
)
def test_what_can_not_be_is_told(runner: ModelRunner, structure: StructuredOutput, problem: str) -> None:
    engine = made(runner)
    sampling = replace(GREEDY, structured_output=structure)
    with pytest.raises(InvalidRequestError, match=problem) as told:
        last_of(engine, sampling)
    assert told.value.violations[0].field == "sampling.structured_output"
    assert engine.num_free_slots == runner.num_slots
    assert engine.num_sessions == 0


def test_tokens_that_are_not_of_it_are_refused(runner: ModelRunner) -> None:
    engine = made(runner)
    session = SessionParams(replace(GREEDY, structured_output=choice("yes")), len(PROMPT))
    committed = (*PROMPT, *TOKENIZER.encode("x"))
    engine.add(1, VerifyWork("s", 0, committed, TokenTree.of_root(committed[-1]), session))
    assert isinstance(run(engine)[1], InvalidRequestError)


def test_one_that_takes_too_much_time_ends(runner: ModelRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = replace(GREEDY, structured_output=regex("[a-c]{20}"))
    engine = made(runner)
    token_ids = first(engine, sampling).token_ids
    monkeypatch.setattr(masks._Output, "left_s", lambda output, num_tokens: 0.0)
    engine.add(2, VerifyWork("first", len(PROMPT) + 1, (), TokenTree.of_root(token_ids[0])))
    error = run(engine)[2]
    assert isinstance(error, InvalidRequestError)
    assert "after 1 tokens it has taken too much time" in str(error)
    assert engine.num_sessions == 0


def test_without_it_nothing_is_asked(runner: ModelRunner) -> None:
    class Unwanted(GrammarCompiler):
        def matcher(self, structure: StructuredOutput) -> Callable[[], None]:  # type: ignore[override]
            raise AssertionError

    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=4)
    engine = VerifierEngine(runner, config, structures=Structures(MasksHere(Unwanted(TOKENIZER))))
    assert len(incremental(engine, PROMPT, 5, SAMPLED)) == 5
