"""The first work asks for many steps though the policy wants a tree: it is called off after the first verdict if one is wanted still."""

from __future__ import annotations

import asyncio
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.errors import UnavailableError
from specgrove.loop import planning
from specgrove.loop.request import GenerationRequest
from specgrove.loop.works import TreeShape, Verdict, VerifyWork
from tests.loop.loops import PROMPT, Counting, Dying, Planned, run_planned, session_of
from tests.router.toy_language import toy_output
from tests.router.toy_ssm import ToySsm

TREE = TreeShape(6, 3)
NOTHING = TreeShape(0, 0, num_steps=64)


def lens_asked_at(verifier: Counting) -> list[int]:
    """Output tokens that were committed when each work was asked for."""
    return [work.base + len(work.new_token_ids) - len(PROMPT) for work in verifier.asked]


async def test_where_it_turns_out_that_nothing_is_drafted_the_verifier_has_gone_on() -> None:
    verifier, drafter, policy = Counting(), ToySsm(), Planned(TREE, NOTHING)
    assert await run_planned(verifier, [drafter], policy, 60) == toy_output(PROMPT, 60)
    assert [work.num_steps for work in verifier.asked] == [60]
    assert policy.num_asked == 2
    assert (verifier.finished_early, drafter.asked) == ([], [])


async def test_where_a_tree_is_wanted_still_the_verifier_stops_and_drafters_read() -> None:
    verifier, drafter = Counting(), ToySsm(hit_rate=0.9)
    verifier.step_s = 0.002
    assert await run_planned(verifier, [drafter], Planned(TREE), 100) == toy_output(PROMPT, 100)
    assert verifier.finished_early == ["s"]
    assert verifier.asked[0].num_steps == 64
    assert lens_asked_at(verifier)[:2] == [0, 2]
    assert [(work.base, len(work.new_token_ids), work.shape.max_num_nodes) for work in drafter.asked[:2]] == [
        (0, len(PROMPT) + 1, 0),
        (len(PROMPT) + 1, 1, 6),
    ]


class SlowToHear(Counting):
    """Gives so many more verdicts before it stops: they were on their way."""

    def __init__(self, num_more: float) -> None:
        super().__init__()
        self._num_more = num_more

    def finish_early(self, session_id: str) -> None:
        self.finished_early.append(session_id)

    async def _step(self, work: VerifyWork) -> Verdict:
        if self.finished_early:
            if self._num_more == 0:
                super().finish_early(work.session_id)
                self.finished_early.pop()
            self._num_more -= 1
        return await super()._step(work)


@pytest.mark.parametrize("num_joined", [1, 3])
@pytest.mark.parametrize("num_more", [0, 1, 5, math.inf])
async def test_verdicts_that_were_on_their_way_count_and_stopping_is_asked_for_once(
    num_more: float, num_joined: int
) -> None:
    """A service that does not know of stopping goes on to the end of the work."""
    verifier, policy = SlowToHear(num_more), Planned(TREE)
    verifier.num_joined = num_joined
    assert await run_planned(verifier, [ToySsm(hit_rate=0.9)], policy, 100) == toy_output(PROMPT, 100)
    assert verifier.finished_early == ["s"]
    assert lens_asked_at(verifier)[1] == min(2 + num_more, 64)
    # Once for the first work, once after its first verdict, then for each of the next works.
    assert policy.num_asked == 1 + len(verifier.asked)


class Losing(Counting):
    """Loses the session before these steps, each once."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self._lost_before = list(steps)

    async def _step(self, work: VerifyWork) -> Verdict:
        if self.num_verified in self._lost_before:
            self._lost_before.remove(self.num_verified)
            self.sessions.clear()
            raise UnavailableError("gone")
        return await super()._step(work)


async def test_what_is_lost_before_the_first_verdict_is_asked_for_again_as_it_was() -> None:
    verifier, policy = Losing(0, 0), Planned(TREE)
    assert await run_planned(verifier, [ToySsm()], policy, 60) == toy_output(PROMPT, 60)
    assert [work.num_steps for work in verifier.asked[:3]] == [60, 60, 60]
    assert verifier.finished_early == ["s"]
    assert lens_asked_at(verifier)[3] == 2


async def test_what_is_lost_after_it_was_called_off_is_asked_for_one_step_only() -> None:
    verifier = Losing(1)
    assert await run_planned(verifier, [ToySsm()], Planned(TREE), 60) == toy_output(PROMPT, 60)
    assert lens_asked_at(verifier)[:3] == [0, 1, 2]
    assert [work.num_steps for work in verifier.asked[:2]] == [60, 1]
    assert verifier.finished_early == ["s"]


async def test_so_it_is_where_verdicts_were_on_their_way() -> None:
    verifier = Losing(4)
    verifier.finish_early = verifier.finished_early.append  # type: ignore[method-assign]
    assert await run_planned(verifier, [ToySsm()], Planned(TREE), 60) == toy_output(PROMPT, 60)
    assert lens_asked_at(verifier)[:3] == [0, 4, 5]
    assert [work.num_steps for work in verifier.asked[:2]] == [60, 1]
    assert verifier.finished_early == ["s"]


async def test_what_is_lost_while_nothing_is_drafted_is_asked_for_as_far_as_it_went() -> None:
    verifier = Losing(10)
    assert await run_planned(verifier, [ToySsm()], Planned(TREE, NOTHING), 100) == toy_output(PROMPT, 100)
    assert [work.num_steps for work in verifier.asked] == [64, 54, 36]


async def test_progress_is_no_verdict() -> None:
    verifier, policy = Counting(), Planned(TREE, NOTHING, TREE)
    verifier.chunk_len = 1
    request = GenerationRequest("s", PROMPT, 40, wants_prompt_progress=True)
    async with session_of(request, [ToySsm()], verifier, policy) as session:
        found = [await anext(session), await anext(session)]
        assert [step.num_prompt_tokens_read for step in found] == [1, 2]
        assert policy.num_asked == 1
        found += [step async for step in session]
    assert [token.token_id for step in found for token in step.tokens] == toy_output(PROMPT, 40)
    assert ([work.num_steps for work in verifier.asked], policy.num_asked, verifier.finished_early) == ([40], 2, [])


@pytest.mark.parametrize("lost_before", [(8,), (8, 8), (7, 8, 9)])
async def test_progress_of_a_replay_is_no_verdict_on_its_tree(lost_before: tuple[int, ...]) -> None:
    """Whoever has many tokens to read again tells how far it is, before it verifies the tree that it was sent."""
    verifier = Losing(*lost_before)
    verifier.chunk_len = 1
    request = GenerationRequest("s", PROMPT, 40, wants_prompt_progress=True)
    async with session_of(request, [ToySsm(hit_rate=0.9)], verifier, Planned(TREE)) as session:
        found = [step async for step in session]
    assert [token.token_id for step in found for token in step.tokens] == toy_output(PROMPT, 40)
    replayed = [work for work in verifier.asked[1:] if work.base == 0]
    assert len(replayed) == len(lost_before) == sum(step.num_replays for step in found)
    assert all(work.tree.num_nodes > 1 for work in replayed)
    num_told = [step.num_prompt_tokens_read for step in found if not step.tokens]
    assert len(num_told) > len(PROMPT) * len(replayed)
    assert set(num_told) <= set(range(1, len(PROMPT) + 1))


async def test_drafters_that_read_a_long_prompt_beside_the_verifier_draft_after_its_first_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "_LONG_PROMPT_LEN", len(PROMPT) - 1)
    verifier, drafter = Counting(), ToySsm()
    verifier.step_s = 0.002
    assert await run_planned(verifier, [drafter], Planned(TREE), 60) == toy_output(PROMPT, 60)
    assert verifier.asked[0].num_steps == 1
    assert verifier.asked[1].tree.num_nodes > 1
    assert len(drafter.asked[0].new_token_ids) == len(PROMPT)
    assert verifier.finished_early == []


async def test_a_policy_that_changes_its_mind_twice() -> None:
    """A choice holds for as many steps as it says, also where the verifier would go on for more."""
    verifier, drafter = Counting(), ToySsm()
    policy = Planned(TREE, TreeShape(0, 0, num_steps=5), TREE, NOTHING)
    assert await run_planned(verifier, [drafter], policy, 60) == toy_output(PROMPT, 60)
    assert lens_asked_at(verifier) == [0, 7]
    assert [work.num_steps for work in verifier.asked] == [60, 53]
    assert verifier.finished_early == ["s"]
    assert [len(work.new_token_ids) for work in drafter.asked] == [len(PROMPT) + 6]


async def test_a_probe_may_begin_after_the_first_verdict() -> None:
    verifier, drafter = Counting(), ToySsm()
    verifier.step_s = 0.002
    policy = Planned(TREE, TreeShape(0, 0, num_steps=64, probe=TreeShape(4, 4)))
    assert await run_planned(verifier, [drafter], policy, 60) == toy_output(PROMPT, 60)
    assert [work.num_steps for work in verifier.asked] == [60]
    assert [work.shape.max_num_nodes for work in drafter.asked] == [0, 4]
    assert any(step.probe is not None for step in policy.observed)


class Erring(Counting, Dying):
    """Is lost or forgets now and then, and hears now and then."""

    def finish_early(self, session_id: str) -> None:
        if self._random.random() < 0.7:
            super().finish_early(session_id)


SHAPES = st.one_of(
    st.builds(TreeShape, st.integers(1, 12), st.integers(1, 5)),
    st.builds(
        lambda num_steps, probes: TreeShape(0, 0, num_steps=num_steps, probe=TreeShape(3, 3) if probes else None),
        st.integers(1, 64),
        st.booleans(),
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(SHAPES, min_size=1, max_size=30), st.integers(0, 1 << 30), st.integers(1, 4), st.integers(1, 90))
def test_the_output_does_not_depend_on_what_is_wanted_when(
    shapes: list[TreeShape], seed: int, num_joined: int, num_tokens: int
) -> None:
    async def check() -> None:
        verifier = Erring()
        verifier.num_joined, verifier.forget_probability, verifier._random = num_joined, 0.1, random.Random(seed)
        assert await run_planned(verifier, [ToySsm()], Planned(*shapes), num_tokens) == toy_output(PROMPT, num_tokens)
        ends = (
            len_asked_at + work.num_steps
            for len_asked_at, work in zip(lens_asked_at(verifier), verifier.asked, strict=True)
        )
        assert max(ends) <= num_tokens
        assert verifier.closed == ["s"]

    asyncio.run(check())


async def test_near_the_end_what_is_lost_is_asked_for_no_further_than_the_end() -> None:
    """A service refuses steps beyond the context."""
    verifier = Losing(30)
    assert await run_planned(verifier, [], Planned(NOTHING), 40) == toy_output(PROMPT, 40)
    assert [work.num_steps for work in verifier.asked] == [40, 10]
