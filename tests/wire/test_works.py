"""Messages between services: lists that are too long are refused before they are copied, and errors keep what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from specgrove.errors import FieldViolation, InvalidRequestError, ResourceExhaustedError, StaleBaseError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import (
    Draft,
    DraftedTree,
    DraftWork,
    LogProbs,
    PromptProgress,
    SessionParams,
    SsmTime,
    TreePrices,
    TreeShape,
    Verdict,
    VerifyWork,
)
from specgrove.structures.structured_output import StructuredOutput, StructureKind
from specgrove.v1 import llm_pb2, ssm_pb2, token_tree_pb2
from specgrove.wire import works
from specgrove.wire.drafts import draft_from_proto, draft_to_proto, draft_work_from_proto, draft_work_to_proto
from specgrove.wire.errors import error_from_proto, error_to_proto


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"new_token_ids": [1] * ((1 << 20) + 1)}, "new_token_ids"),
        ({"tree": {"token_ids": [1] * 4097}}, "tree.token_ids"),
        ({"tree": {"parents": [0] * 4097}}, "tree.parents"),
        ({"tree": {"log_probs": [0.0] * 4097}}, "tree.log_probs"),
        ({"tree": {"sources": [0] * 4097}}, "tree.sources"),
        ({"session": {"sampling": {"stop_token_ids": [1] * 1025}}}, "session.sampling.stop_token_ids"),
        (
            {"session": {"sampling": {"logit_bias": dict.fromkeys(range(1025), 0.0)}}},
            "session.sampling.logit_bias",
        ),
    ],
)
def test_lists_of_a_verify_item_have_a_bound(fields, field) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InvalidRequestError, match=r"elements; at most") as info:
        works.verify_work_from_proto(llm_pb2.VerifyItem(**fields))
    assert info.value.violations[0].field == field


@pytest.mark.parametrize("field", ["new_token_ids", "ssms"])
def test_lists_of_a_draft_item_have_a_bound(field: str) -> None:
    values = {"new_token_ids": [1] * ((1 << 20) + 1), "ssms": ["x"] * 65}
    with pytest.raises(InvalidRequestError, match=rf"{field}: has \d+ elements; at most"):
        draft_work_from_proto(ssm_pb2.DraftItem(**{field: values[field]}))


def test_errors_keep_what_they_say_over_the_work_stream() -> None:
    exhausted = error_from_proto(error_to_proto(ResourceExhaustedError("no free KV slots", 250)))
    assert isinstance(exhausted, ResourceExhaustedError)
    assert (str(exhausted), exhausted.retry_delay_ms) == ("no free KV slots", 250)
    stale = error_from_proto(error_to_proto(StaleBaseError(7)))
    assert isinstance(stale, StaleBaseError)
    assert stale.held_len == 7
    invalid = error_from_proto(error_to_proto(InvalidRequestError.of("tree.parents", "of node 3: is 5")))
    assert isinstance(invalid, InvalidRequestError)
    assert invalid.violations == (FieldViolation("tree.parents", "of node 3: is 5"),)
    # Of a service that doesn't say: the usual delay.
    proto = token_tree_pb2.WorkError(code=token_tree_pb2.WORK_ERROR_CODE_RESOURCE_EXHAUSTED)
    unsaid = error_from_proto(proto)
    assert isinstance(unsaid, ResourceExhaustedError)
    assert unsaid.retry_delay_ms == 1000


def test_errors_are_short_whatever_they_quote() -> None:
    assert len(error_to_proto(InvalidRequestError.of("ssms", "x" * 100_000)).message) == 1000
    assert len(error_to_proto(ValueError("x" * 100_000)).message) == 1000


def test_wishes_about_the_prompt_and_what_comes_of_them_keep_all_they_say() -> None:
    opening = VerifyWork("s", 0, (1, 2, 3), TokenTree.of_root(3), SessionParams(SamplingParams(), 3, True, {}, 0, 2))
    assert works.verify_work_from_proto(works.verify_work_to_proto(opening, 1)) == opening
    without = replace(opening, session=SessionParams(SamplingParams(), 3))
    assert works.verify_work_from_proto(works.verify_work_to_proto(without, 1)) == without
    progress = PromptProgress(5, 4, (LogProbs(-0.5, 2, ((7, -0.25), (1, -0.5))), LogProbs(-1.0, 1)))
    assert works.progress_from_proto(works.progress_to_proto(progress)) == progress


def test_what_is_cached_and_for_whom_is_kept() -> None:
    params = SessionParams(SamplingParams(), 1, cache_salt="mine")
    work = VerifyWork("s", 0, (1,), TokenTree.of_root(1), params)
    assert works.verify_work_from_proto(works.verify_work_to_proto(work, 1)) == work
    verdict = Verdict(1, (2,), (), num_cached_tokens=7)
    assert works.verdict_from_proto(works.verdict_to_proto(verdict)) == verdict


def test_prices_and_what_is_left_out_keep_what_they_say() -> None:
    shape = TreeShape(8, 4, prices=TreePrices(0.25, 0.125))
    draft = DraftWork("s", 3, (1,), shape)
    assert draft_work_from_proto(draft_work_to_proto(draft, 1)).shape == shape
    assert draft_work_from_proto(draft_work_to_proto(replace(draft, shape=TreeShape(8, 4)), 1)).shape.prices is None
    work = VerifyWork("s", 3, (1,), TokenTree.of_root(1), may_leave_out_nodes=True)
    assert works.verify_work_from_proto(works.verify_work_to_proto(work, 1)) == work
    verdict = Verdict(3, (1, 2), (1,), left_out_nodes=(2, 5))
    assert works.verdict_from_proto(works.verdict_to_proto(verdict)).left_out_nodes == (2, 5)


def test_items_that_want_no_hidden_states_say_so() -> None:
    """A router that knows of no such items wants them with all."""
    for wants in (True, False):
        work = VerifyWork("s", 3, (1,), TokenTree.of_root(1), tells_hidden_states=wants)
        assert works.verify_work_from_proto(works.verify_work_to_proto(work, 1)) == work
    assert works.verify_work_from_proto(llm_pb2.VerifyItem(base=3)).tells_hidden_states


def test_a_draft_says_whether_other_rules_decide() -> None:
    work = DraftWork("s", 0, (1,), TreeShape(8, 4), has_other_rules=True)
    assert draft_work_from_proto(draft_work_to_proto(work, 1)) == work
    assert not SamplingParams(temperature=0.7, top_k=4, top_p=0.9, seed=3, num_log_probs=2).has_other_rules
    for params in (
        SamplingParams(min_p=0.1), SamplingParams(repetition_penalty=1.1), SamplingParams(presence_penalty=-1.0),
        SamplingParams(frequency_penalty=0.5), SamplingParams(logit_bias=((1, 2.0),)), SamplingParams(min_tokens=3),
        SamplingParams(structured_output=StructuredOutput(StructureKind.REGEX, ("a+",))),
    ):  # fmt: skip
        assert params.has_other_rules


def test_a_draft_without_a_salt_is_not_one_with_an_empty_one() -> None:
    """A router that knows of none leaves it out: then nothing is shared, for its clients may have given one."""
    for salt in (None, "", "mine"):
        work = DraftWork("s", 0, (1,), TreeShape(8, 4), cache_salt=salt)
        assert draft_work_from_proto(draft_work_to_proto(work, 1)) == work


def test_borrowed_nodes_of_a_draft_stay_borrowed() -> None:
    tree = TokenTree((7, 1, 2), (-1, 0, 1), (0.0, -1.0, -0.5), (0, 0, 1))
    for sources in (tree.sources, (0, 0, 0)):
        times = (SsmTime("a", 1.5, 2), SsmTime("b", 0.25))
        drafted = Draft(4, (DraftedTree("a", replace(tree, sources=sources)),), 3.0, times=times)
        assert draft_from_proto(draft_to_proto(drafted)) == drafted
