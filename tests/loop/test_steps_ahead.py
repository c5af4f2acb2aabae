"""Steps that the verifier makes by itself where nothing is drafted, and what drafters do meanwhile: they read, or probe."""

from __future__ import annotations

import asyncio

import pytest

from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.statistics import GenerationStatistics
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import Draft, DraftWork, TreeShape
from tests.loop.loops import PROMPT, Counting, FixedShape, Planned, run, run_planned, session_of
from tests.router.toy_language import VOCAB_SIZE, toy_next, toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm


async def test_without_drafters_the_verifier_goes_on_by_itself() -> None:
    verifier = Counting()
    token_ids, steps = await run([], verifier, 100)
    assert token_ids == toy_output(PROMPT, 100)
    assert len(steps) == verifier.num_verified == 100
    assert [work.num_steps for work in verifier.asked] == [64, 36]
    assert verifier.asked[1].new_token_ids == ()


@pytest.mark.parametrize("num_tokens", [1, 2, 33, 60])
async def test_a_verdict_may_hold_several_steps(num_tokens: int) -> None:
    verifier = ToyLlm()
    verifier.num_joined = 4
    output, steps = await run([], verifier, num_tokens)
    assert output == toy_output(PROMPT, num_tokens)
    statistics = GenerationStatistics()
    for step in steps:
        assert step.num_steps == len(step.tokens) <= 4
        statistics.add(step)
    assert statistics.num_verify_steps == num_tokens == verifier.num_verified
    assert statistics.acceptance_histogram == [num_tokens]
    assert len(steps) == num_tokens if num_tokens < 3 else len(steps) < num_tokens / 2


async def test_where_the_policy_drafts_nothing_the_verifier_goes_on_by_itself() -> None:
    verifier, drafter = Counting(), ToySsm(hit_rate=0.9)

    class Alternating(FixedShape):
        num_asked = 0

        def shape(self) -> TreeShape:
            self.num_asked += 1
            return self._shape if self.num_asked % 2 else TreeShape(0, 0, num_steps=5)

    policy = Alternating(TreeShape(6, 3))
    request = GenerationRequest("s", PROMPT, 60)
    async with session_of(request, [drafter], verifier, policy) as session:
        token_ids = [token.token_id async for step in session for token in step.tokens]
    assert token_ids == toy_output(PROMPT, 60)
    assert verifier.asked[0].num_steps == 60  # till it is known whether drafts are wanted still
    assert {work.num_steps for work in verifier.asked[1:-1]} <= {1, 2, 5}
    assert all(work.num_steps == 1 for work in verifier.asked if work.tree.num_nodes > 1)
    # While the prompt is read nothing is drafted; then the drafter reads it.
    assert len(drafter.asked) == policy.num_asked // 2 + policy.num_asked % 2 - 1


async def test_where_nothing_is_drafted_drafters_are_not_even_told_of_tokens() -> None:
    verifier, drafter, policy = Counting(), ToySsm(), Planned(TreeShape(0, 0, num_steps=64))
    assert await run_planned(verifier, [drafter], policy, 100) == toy_output(PROMPT, 100)
    assert [work.num_steps for work in verifier.asked] == [64, 36]
    assert not drafter.asked
    assert all(step.probe is None and step.reading is None for step in policy.observed)


class OneByOne(ToySsm):
    """Counts drafts that are under way at once."""

    def __init__(self) -> None:
        super().__init__(("quick",))
        self.delay_s = 0.001
        self.max_num_under_way = self._num_under_way = 0

    async def draft(self, work: DraftWork) -> Draft:
        self._num_under_way += 1
        self.max_num_under_way = max(self.max_num_under_way, self._num_under_way)
        try:
            return await super().draft(work)
        finally:
            self._num_under_way -= 1


class Chains(ToySsm):
    """Drafts a chain of which the first ``num_right`` tokens are right."""

    def __init__(self, num_right: int) -> None:
        super().__init__(("chains",))
        self._num_right = num_right

    def _tree(self, tokens: list[int], work: DraftWork) -> TokenTree:
        path = list(tokens)
        for depth in range(work.shape.max_depth):
            path.append((toy_next(path, 0) + (depth >= self._num_right)) % VOCAB_SIZE)
        depth = work.shape.max_depth
        return TokenTree(tuple(path[-depth - 1 :]), tuple(range(-1, depth)), (0.0, *[-0.1] * depth), (0,) * (depth + 1))


@pytest.mark.parametrize("num_right", [0, 2, 4])
async def test_a_probe_tells_what_its_tree_was_worth_and_is_not_verified(num_right: int) -> None:
    verifier, drafter = Counting(), Chains(num_right)
    verifier.step_s = 0.002
    policy = Planned(TreeShape(0, 0, num_steps=30, probe=TreeShape(4, 4)), TreeShape(0, 0, num_steps=30))
    assert await run_planned(verifier, [drafter], policy) == toy_output(PROMPT, 60)
    assert all(work.tree.num_nodes == 1 for work in verifier.asked)
    assert [work.num_steps for work in verifier.asked] == [30, 30]
    (probe,) = (step.probe for step in policy.observed if step.probe is not None)
    assert (probe.tree.num_nodes - 1, probe.asked.max_depth, probe.accepted_depth) == (4, 4, num_right)
    (reading,) = (step.reading for step in policy.observed if step.reading is not None)
    assert reading.num_tokens == len(PROMPT)


async def test_a_probe_is_called_off_when_a_tree_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    """One drafter is still reading for the probe, the other one drafts for steps: it was asked for both at once."""
    verifier, quick, slow = Counting(), OneByOne(), ToySsm(("slow",))
    slow.gate.clear()
    verifier.step_s = 0.002
    policy = Planned(*[TreeShape(0, 0, num_steps=2, probe=TreeShape(4, 4))] * 2, TreeShape(6, 3))
    opening = asyncio.get_running_loop().call_later(0.15, slow.gate.set)
    assert await run_planned(verifier, [quick, slow], policy, 100) == toy_output(PROMPT, 100)
    opening.cancel()
    assert any(work.tree.num_nodes > 1 for work in verifier.asked)
    assert quick.max_num_under_way == 1
    assert all(work.shape.max_num_nodes in (0, 6) for work in quick.asked)
    assert "malformed" not in caplog.text


async def test_drafters_that_have_much_to_read_do_so_while_the_verifier_goes_on() -> None:
    verifier, drafter = Counting(), ToySsm(hit_rate=0.9)
    verifier.step_s = 0.001
    policy = Planned(TreeShape(0, 0, num_steps=64), TreeShape(0, 0, num_steps=16), TreeShape(6, 3))
    assert await run_planned(verifier, [drafter], policy, 150) == toy_output(PROMPT, 150)
    assert [work.num_steps for work in verifier.asked][:3] == [64, 16, 2]
    assert drafter.asked[0].shape.max_num_nodes == 0
    assert len(drafter.asked[0].new_token_ids) == len(PROMPT) + 80
    assert any(work.tree.num_nodes > 1 for work in verifier.asked[3:])


async def test_the_first_stop_token_ends_what_was_made_ahead() -> None:
    verifier, output = ToyLlm(), toy_output(PROMPT, 60)
    stop = output[20]
    token_ids, _ = await run([], verifier, sampling=SamplingParams(stop_token_ids=(stop,)))
    assert token_ids == output[: output.index(stop) + 1]
    assert verifier.num_verified == len(token_ids)
