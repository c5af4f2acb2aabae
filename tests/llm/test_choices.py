"""Choices that the forward pass makes itself: the tokens are those that its logits would have given, and only they are left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llm_service.acceptance import choices_wanted
from llm_service.config import VerifierConfig
from llm_service.session import Session
from llm_service.verifier import VerifierEngine
from specgrove.errors import InternalError
from specgrove.kernels.rows import NOT_A_NUMBER, PassRows
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Verdict
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.verifying import GREEDY, PROMPT, SAMPLED, opening

PLAIN = SamplingParams(temperature=0.8, seed=5)
NEED_LOGITS = {
    "top_k": replace(PLAIN, top_k=5),
    "top_p": replace(PLAIN, top_p=0.9),
    "min_p": replace(PLAIN, min_p=0.05),
    "repetition_penalty": replace(GREEDY, repetition_penalty=1.2),
    "presence_penalty": replace(GREEDY, presence_penalty=0.5),
    "frequency_penalty": replace(GREEDY, frequency_penalty=0.5),
    "logit_bias": replace(GREEDY, logit_bias=((4, 5.0),)),
    "log_probs": replace(GREEDY, num_log_probs=0),
    "min_tokens": replace(GREEDY, min_tokens=2, stop_token_ids=(7,)),
    "all": SAMPLED,
}
TREE = TokenTree((31, 4, 5), (-1, 0, 0), (0.0, -1.0, -1.0), (0, 1, 1))


class LogitsOnly(ModelRunner):
    """Makes no choices, as a model over several ranks."""

    def start(self, rows: PassRows) -> None:
        rows.choices = [None] * len(rows.choices)
        super().start(rows)


class Recording(ModelRunner):
    """Counts rows by what they gave; may find a row's logits to be no numbers."""

    num_choices = num_logits = 0
    spoilt_row: int | None = None

    def finish(self) -> PassOutput:
        output = super().finish()
        choices = list(output.choices)
        self.num_choices += sum(choice >= 0 for choice in choices)
        self.num_logits += len(output.logits)
        if self.spoilt_row is not None:
            choices[self.spoilt_row] = NOT_A_NUMBER
        return PassOutput(choices, output.logits)


def outputs_of(runner: ModelRunner, samplings: list[SamplingParams]) -> list[list[int]]:
    """Of sessions that share all passes."""
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, max_num_chunk_tokens=200))
    found: list[list[int]] = [[] for _ in samplings]
    for index, sampling in enumerate(samplings):
        engine.add(index, replace(opening(f"s{index}", PROMPT[index % 3 :], sampling), num_steps=12))
    while engine.has_work():
        for index, verdict in engine.step():
            assert isinstance(verdict, Verdict), verdict
            found[index].extend(verdict.token_ids)
    return found


def test_tokens_are_those_of_the_logits(runner: ModelRunner) -> None:
    samplings = [GREEDY, *NEED_LOGITS.values(), PLAIN, replace(PLAIN, seed=6), GREEDY]
    recording = Recording(runner.decoder, 1000)
    found = outputs_of(recording, samplings)
    assert found == outputs_of(LogitsOnly(runner.decoder, 1000), samplings)
    assert recording.num_choices >= 4 * 12
    assert recording.num_logits >= 9 * 5


@pytest.mark.parametrize("sampling", [GREEDY, PLAIN, replace(PLAIN, temperature=1e-9)])
def test_where_only_the_largest_counts_no_logits_are_written(runner: ModelRunner, sampling: SamplingParams) -> None:
    recording = Recording(runner.decoder, 400)
    outputs_of(recording, [sampling] * 3)
    assert (recording.num_choices, recording.num_logits) == (36, 0)


@pytest.mark.parametrize("name", NEED_LOGITS)
def test_what_needs_logits_gets_them(name: str) -> None:
    session = Session("s", NEED_LOGITS[name], len(PROMPT))
    session.extend(tuple(PROMPT))
    assert choices_wanted(session, TREE, are_cheap=True) is None
    assert choices_wanted(session, TokenTree.of_root(31), are_cheap=True) is None


def test_enough_tokens_end_the_need_for_logits() -> None:
    session = Session("s", NEED_LOGITS["min_tokens"], len(PROMPT))
    session.extend((*PROMPT, 1))
    assert choices_wanted(session, TREE, are_cheap=False) is None
    session.extend((31,))
    wanted = choices_wanted(session, TREE, are_cheap=False)
    assert wanted is not None
    assert [choice.position for choice in wanted] == [len(PROMPT) + 2 + depth for depth in (0, 1, 1)]


def test_sampled_choices_of_a_tree_are_made_only_where_they_are_looked_at() -> None:
    session = Session("s", PLAIN, len(PROMPT))
    session.extend(tuple(PROMPT))
    assert choices_wanted(session, TREE, are_cheap=False) is None
    assert choices_wanted(session, TokenTree.of_root(31), are_cheap=False) is not None
    assert len(choices_wanted(session, TREE, are_cheap=True) or ()) == TREE.num_nodes


def test_trees_that_share_a_pass_are_each_judged_by_their_own_answers(runner: ModelRunner) -> None:
    samplings = [PLAIN, GREEDY, replace(PLAIN, seed=6), GREEDY, SAMPLED]
    expected = outputs_of(runner, samplings)
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, max_num_chunk_tokens=200))
    for index, (sampling, output) in enumerate(zip(samplings, expected, strict=True)):
        # A path of the session's own tokens that goes wrong at its end, beside a wrong one: trees of 4 to 8 nodes.
        prompt, right = PROMPT[index % 3 :], output[: index + 1]
        token_ids = [prompt[-1], *right, (right[-1] + 1) % 97, (right[0] + 2) % 97]
        tree = TokenTree(
            tuple(token_ids),
            (-1, *range(len(right)), len(right) - 1, 0),
            (0.0,) * len(token_ids),
            (1,) * len(token_ids),
        )
        engine.add(index, replace(opening(f"s{index}", prompt, sampling), tree=tree))
    results: dict[int, object] = {}
    while engine.has_work():
        results.update(engine.step())
    for index, output in enumerate(expected):
        verdict = results[index]
        assert isinstance(verdict, Verdict)
        assert list(verdict.token_ids) == output[: index + 2]
    assert engine.counts.num_passes == 1


def test_logits_that_are_no_numbers_fail_their_own_session_only(runner: ModelRunner) -> None:
    recording = Recording(runner.decoder, 400)
    recording.spoilt_row = 1
    engine = VerifierEngine(recording, VerifierConfig(max_model_len=200, max_num_chunk_tokens=200))
    for index in range(3):
        engine.add(index, opening(f"s{index}", PROMPT))
    results: dict[int, object] = {}
    while engine.has_work():
        recording.spoilt_row = 1 if not results else None
        results.update(engine.step())
    assert isinstance(results[1], InternalError)
    assert "NaN" in str(results[1])
    assert isinstance(results[0], Verdict)
    assert isinstance(results[2], Verdict)
