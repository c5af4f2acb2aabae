"""Which SSM services are asked to draft ahead: those that say that they can, where they take nothing from an LLM service by it."""

from __future__ import annotations

import pytest

from specgrove.loop.request import SpeculationOptions
from specgrove.loop.works import DraftWork, TreeShape
from specgrove.machine.compute_place import ComputePlace
from specgrove.v1 import ssm_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_cluster import toy_cluster
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.waiting import until

LLM, SSM, OTHER_LLM = "127.0.0.2", "127.0.0.3", "127.0.0.4"
UNKNOWN, GPU_0, GPU_1 = ComputePlace(), ComputePlace("m", "gpu 0"), ComputePlace("m", "gpu 1")
OLDER, OFF, AUTO, ON = (
    ssm_pb2.DRAFT_AHEAD_UNSPECIFIED,
    ssm_pb2.DRAFT_AHEAD_OFF,
    ssm_pb2.DRAFT_AHEAD_AUTO,
    ssm_pb2.DRAFT_AHEAD_ON,
)


@pytest.mark.parametrize(
    ("draft_ahead", "llm_place", "ssm_place", "is_asked"),
    [
        (OLDER, GPU_0, GPU_1, False),
        (OFF, GPU_0, GPU_1, False),
        (AUTO, GPU_0, GPU_1, True),
        (AUTO, GPU_0, GPU_0, False),
        (AUTO, UNKNOWN, GPU_0, False),
        (ON, GPU_0, GPU_0, True),
        (ON, UNKNOWN, UNKNOWN, True),
    ],
)
async def test_only_who_can_and_has_a_place_of_its_own_is_asked(
    draft_ahead: ssm_pb2.DraftAhead, llm_place: ComputePlace, ssm_place: ComputePlace, is_asked: bool
) -> None:
    ssm, llm = ToySsm(), ToyLlm()
    ssm.draft_ahead, ssm.place, llm.place = draft_ahead, ssm_place, llm_place
    async with toy_cluster() as cluster:
        await cluster.add_llm(LLM, llm)
        await cluster.add_ssm(SSM, ssm)
        await until(lambda: cluster.takes_sessions(LLM) and cluster.takes_sessions(SSM))
        token_ids = token_ids_of(await responses_to(cluster, request_of(max_tokens=60)))
    assert token_ids == toy_output(PROMPT, 60)
    drafted = [work for work in ssm.asked if work.shape.max_num_nodes > 0]
    assert drafted
    assert {work.ahead_ms > 0 for work in drafted} == {is_asked}


async def test_a_session_is_told_when_that_changes() -> None:
    """An LLM service comes that computes where the SSMs do."""
    ssm, llm, other = ToySsm(), ToyLlm(), ToyLlm()
    ssm.draft_ahead, ssm.place, llm.place, other.place = AUTO, GPU_1, GPU_0, GPU_1
    async with toy_cluster() as cluster:
        await cluster.add_llm(LLM, llm)
        await cluster.add_ssm(SSM, ssm)
        await until(lambda: cluster.takes_sessions(LLM) and cluster.takes_sessions(SSM))
        (drafter,) = cluster.app.ssms.drafters_for(SpeculationOptions())
        session = drafter.session("s")
        assert session.ask(DraftWork("s", 0, (1, 2), TreeShape(4, 2), ahead_ms=10))
        await session.answer()
        assert not session.ask(DraftWork("s", 2, (3,), TreeShape(4, 2)))
        await session.answer()
        await cluster.add_llm(OTHER_LLM, other)
        await until(lambda: cluster.takes_sessions(OTHER_LLM))
        assert not session.ask(DraftWork("s", 3, (4,), TreeShape(4, 2), ahead_ms=10))
        await session.answer()
        assert [work.ahead_ms for work in ssm.asked] == [10, 0, 0]
