"""A pass's parts: whose answers are whose, and when a pass ahead may follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llm_service.node_answers import NodeChoices, NodeLogits
from llm_service.passes import FinishedPass, Pass, PassPart, pass_of
from llm_service.session import PendingWork, Session
from specgrove.kernels.rows import ALL_BANNED, HAS_LOGITS, NOT_A_NUMBER
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import LogProbs
from specgrove.program.backend import PassOutput

CHAIN = TokenTree((5, 6, 7), (-1, 0, 1), (0.0, -1.0, -1.0), (0, 0, 0))
ROOT = TokenTree.of_root(5)
NEEDS_LOGITS = SamplingParams(num_log_probs=1)


def pending(tree: TokenTree = ROOT, sampling: SamplingParams = SamplingParams(), *, num_known: int = 0) -> PendingWork:  # noqa: B008
    """With a prompt of four tokens in slots 0 to 2, of which ``num_known`` have log-probabilities that are wanted."""
    session = Session("s", sampling, 4, num_prompt_log_probs=0 if num_known else None)
    session.extend((1, 2, 3, 5))
    session.slots.extend(range(3))
    session.prompt_log_probs_start = 4 - num_known
    return PendingWork(1, session, tree, None, num_steps_left=2)


def part_of(work: PendingWork, start: int = 3) -> PassPart:
    return PassPart(work, start, range(10, 10 + work.tree.num_nodes))


def finished(begun: Pass, output: PassOutput) -> FinishedPass:
    return FinishedPass(begun.parts, begun.num_rows, 0.1, output)


def test_each_part_finds_its_own_answers() -> None:
    works = [
        pending(CHAIN),
        pending(CHAIN, NEEDS_LOGITS),
        pending(num_known=2),  # reads two tokens of its prompt, and has its tree, too
        pending(sampling=NEEDS_LOGITS),
    ]
    reads_only = PassPart(pending(num_known=1), 1, ())
    parts = (part_of(works[0]), part_of(works[1]), part_of(works[2], start=0), reads_only, part_of(works[3]))
    begun, rows = pass_of(parts, choices_are_cheap=False)
    assert rows.num_rows == begun.num_rows == 3 + 3 + (3 + 1) + 2 + 1
    logits = torch.arange(4.0).view(4, 1)
    told = [LogProbs(-1.0, 1), LogProbs(-2.0, 1), None]
    choices = [6, 9, 8, *[HAS_LOGITS] * 3, *[HAS_LOGITS] * 2, 4, *[HAS_LOGITS] * 2]
    assert len(choices) == len(rows.asked_rows)
    found = finished(begun, PassOutput(choices, logits, log_probs=told))
    answers = {part.pending: answer for part, answer in found.answers()}
    assert list(answers) == works
    assert answers[works[0]] == NodeChoices([6, 9, 8])
    assert answers[works[2]] == NodeChoices([4])
    for work, expected in ((works[1], logits[:3]), (works[3], logits[3:])):
        answer = answers[work]
        assert isinstance(answer, NodeLogits)
        assert torch.equal(answer.logits, expected)
    assert [(part.pending, list(part.known_places), list(log_probs)) for part, log_probs in found.log_probs()] == [
        (works[2], [2, 3], told[:2]),
        (reads_only.pending, [3], told[2:]),
    ]


def test_a_runner_may_give_logits_where_it_was_asked_for_choices() -> None:
    begun, _ = pass_of((part_of(pending(CHAIN)), part_of(pending())), choices_are_cheap=False)
    logits = torch.arange(4.0).view(4, 1)
    found = [answer for _, answer in finished(begun, PassOutput([], logits)).answers()]
    assert all(isinstance(answer, NodeLogits) for answer in found)
    assert [answer.logits.flatten().tolist() for answer in found if isinstance(answer, NodeLogits)] == [[0, 1, 2], [3]]


def test_choices_are_walked_from_the_root() -> None:
    assert NodeChoices([6, 7, 9]).walk(CHAIN) == ((1, 2), 9)
    assert NodeChoices([6, 8, NOT_A_NUMBER]).walk(CHAIN) == ((1,), 8)
    assert NodeChoices([9, 7, 9]).walk(CHAIN) == ((), 9)
    for instead, problem in ((NOT_A_NUMBER, "the logits hold NaN"), (ALL_BANNED, "every token is banned")):
        with pytest.raises(ValueError, match=problem):
            NodeChoices([6, instead, 9]).walk(CHAIN)


def test_a_pass_ahead_follows_where_all_surely_go_on() -> None:
    works = [pending(), pending()]
    begun, _ = pass_of(tuple(map(part_of, works)), choices_are_cheap=False)
    assert begun.may_be_followed(works, 2)
    assert not begun.may_be_followed(works, 1)
    assert not begun.may_be_followed([*works, pending()], 5)
    assert not begun.may_be_followed(works[:1], 5)
    assert not begun.may_be_followed([works[0], pending()], 5)
    works[1].num_steps_left = 1
    assert not begun.may_be_followed(works, 2)
    assert not replace(begun, parts=()).may_be_followed([], 5)


@pytest.mark.parametrize("other", [pending(CHAIN), pending(sampling=NEEDS_LOGITS), pending(num_known=1)])
def test_no_pass_ahead_follows_trees_logits_or_a_prompt_that_is_told(other: PendingWork) -> None:
    works = [pending(), other]
    begun, _ = pass_of((part_of(works[0]), part_of(other, start=1)), choices_are_cheap=False)
    assert not begun.may_be_followed(works, 5)
