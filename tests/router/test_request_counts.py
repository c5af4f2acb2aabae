"""What is counted of requests, and what of the steps that made them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest

from router.request_counts import RequestCounts
from router.speculation_counts import SpeculationCounts
from specgrove.errors import InvalidRequestError, ResourceExhaustedError
from specgrove.loop.output import CommittedToken, Step
from specgrove.v1 import router_pb2


def piece(num_tokens: int, **fields: object) -> router_pb2.GenerateResponse:
    tokens = [router_pb2.GeneratedToken(token_id=i) for i in range(num_tokens)]
    return router_pb2.GenerateResponse(tokens=tokens, **fields)  # type: ignore[arg-type]


def test_an_outputs_tokens_and_times() -> None:
    counts = RequestCounts()
    with counts.counting(arrived_s=0) as request:
        request.let_in()
        request.add_prompt(5)
        request.add(router_pb2.GenerateResponse(num_prompt_tokens_read=3))
        request.add(piece(1))
        request.add(piece(4))
        request.add(piece(2, finish_reason=router_pb2.FINISH_REASON_STOP))
    assert (counts.num_prompt_tokens, counts.num_output_tokens) == (5, 7)
    assert counts.num_finished == {("stop",): 1, ("length",): 0, ("abort",): 0}
    timed = (counts.queue_s, counts.first_token_s, counts.between_tokens_s, counts.duration_s)
    assert [times.num for times in timed] == [1, 1, 6, 1]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError.of("x", "wrong"), "INVALID_ARGUMENT"),
        (ResourceExhaustedError("full", 5), "RESOURCE_EXHAUSTED"),
        (ZeroDivisionError(), "INTERNAL"),
    ],
)
def test_errors_count_by_their_codes(error: Exception, code: str) -> None:
    counts = RequestCounts()
    with pytest.raises(type(error)), counts.counting(arrived_s=0):
        raise error
    assert counts.num_failed == {(code,): 1}
    assert sum(counts.num_finished.values()) == 0


@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit, None])
def test_clients_that_leave_are_aborts(error: type[BaseException] | None) -> None:
    counts = RequestCounts()
    with contextlib.suppress(asyncio.CancelledError, GeneratorExit), counts.counting(arrived_s=0) as request:
        request.add(piece(1))
        if error is not None:
            raise error
    assert counts.num_finished["abort",] == 1
    assert (counts.num_failed, counts.duration_s.num) == ({}, 0)


TREE_STEP = Step(
    tokens=(CommittedToken(1, ("a", "b")), CommittedToken(2, ("b",)), CommittedToken(3)),
    finish_reason=None, num_drafted_nodes=7, drafted_depth=3, accepted_depth=2, draft_ms=3.0, verify_ms=6.0, verify_num_rows=8,
    num_replays=1, wall_ms=10.0, drafted_by_ssm=(("a", 4), ("b", 5)),
)  # fmt: skip


def test_trees_are_counted_with_what_came_of_them() -> None:
    counts = SpeculationCounts()
    counts.add(TREE_STEP, usual_ms=5.0)
    counts.add(replace(TREE_STEP, tokens=(CommittedToken(1),), accepted_depth=0, num_replays=0), usual_ms=None)
    assert (counts.num_steps, counts.num_drafts, counts.num_drafted, counts.num_accepted) == (2, 2, 14, 2)
    assert counts.accepted_by_position == {0: 1, 1: 1}
    assert (counts.drafts_by_ssm, counts.drafted_by_ssm) == ({"a": 2, "b": 2}, {"a": 8, "b": 10})
    assert counts.accepted_by_ssm == {"a": 1, "b": 2}
    assert counts.num_replays == 1
    # Three tokens took 10 ms, and take 15 without a tree; of the other step nobody knows.
    assert (counts.speculative_s, counts.incremental_s) == (pytest.approx(0.010), pytest.approx(0.015))


def test_steps_without_a_tree_are_steps_alone() -> None:
    counts = SpeculationCounts()
    counts.add(replace(TREE_STEP, num_drafted_nodes=0, accepted_depth=0, drafted_by_ssm=(), num_steps=3), usual_ms=5.0)
    assert (counts.num_steps, counts.num_drafts, counts.accepted_by_ssm, counts.speculative_s) == (3, 0, {}, 0)
