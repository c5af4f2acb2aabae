"""The planner, with a room that has nothing to give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm_service.config import VerifierConfig
from llm_service.counts import VerifierCounts
from llm_service.pass_planner import PassPlanner
from llm_service.paying_rows import PayingRows
from llm_service.room import Room
from llm_service.scheduler import PlannedPart
from llm_service.session import PendingWork, Session
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree

TREE = TokenTree((3, 5, 6), (-1, 0, 1), (0.0, -3.0, -0.1), (0, 1, 1))


def test_a_tree_that_has_to_wait_is_whole_in_the_pass_that_it_comes_into() -> None:
    paying_rows = PayingRows()
    for num_rows in (1, 2, 3):
        paying_rows.observe(num_rows, 10.0 * num_rows, now_s=0.0)
    session = Session("s", SamplingParams(), 3)
    session.extend((1, 2, 3))
    session.is_admitted = True
    session.slots.extend([0, 1])
    work = PendingWork(1, session, TREE, None, may_leave_out=True)
    planner = PassPlanner(Room(8, VerifierCounts()), VerifierConfig(max_model_len=8), 1, paying_rows)
    planned = []

    class NoSlots:
        def with_slots(self, parts: Sequence[PlannedPart]) -> tuple[Any, ...]:
            planned.extend(part.pending.tree.num_nodes for part in parts)
            return ()

    assert planner._first_with_slots([work], NoSlots(), 0.0, is_busy=False) == ()  # type: ignore[arg-type]
    assert planned == [1]  # its nodes are not worth their rows here
    assert (work.tree, work.left_out_nodes_with(None)) == (TREE, ())
