"""The loop in-process with toy drafters and verifiers: the output is the incremental output, and ends where it should."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.errors import DeadlineExceededError
from specgrove.loop.output import FinishReason
from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.statistics import GenerationStatistics
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import DraftWork, TreeShape
from tests.loop.loops import PROMPT, FixedShape, run, session_of
from tests.router.toy_language import toy_next, toy_output
from tests.router.toy_services import CONTEXT_LEN, ToyLlm
from tests.router.toy_sides import ToyDrafterSession
from tests.router.toy_ssm import ToySsm
from tests.waiting import until


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(0, 24), st.integers(0, 8), st.floats(0, 1), st.floats(0, 0.4))
def test_speculative_is_incremental(
    seed: int, max_num_nodes: int, max_depth: int, hit_rate: float, forget_probability: float
) -> None:
    async def check() -> None:
        verifier, drafters = ToyLlm(), [ToySsm(("a",), hit_rate), ToySsm(("b", "c"), hit_rate / 2)]
        verifier.forget_probability = forget_probability
        for index, drafter in enumerate(drafters):
            drafter.forget_probability = forget_probability
            drafter._random = random.Random(seed + index)
        token_ids, steps = await run(drafters, verifier, shape=TreeShape(max_num_nodes, max_depth))
        assert token_ids == toy_output(PROMPT, 60)
        assert [step.finish_reason for step in steps] == [None] * (len(steps) - 1) + [FinishReason.LENGTH]
        assert all(step.num_drafted_nodes <= max_num_nodes and step.drafted_depth <= max_depth for step in steps)
        assert verifier.closed == ["s"]
        assert not verifier.sessions

    asyncio.run(check())


async def test_the_deadline_ends_it() -> None:
    with pytest.raises(DeadlineExceededError):
        await run([], ToyLlm(step_s=0.01), 400, deadline_s=time.monotonic() + 0.1)


async def test_stop_tokens_cut_the_step() -> None:
    output = toy_output(PROMPT, 60)
    stop = output[20]
    token_ids, steps = await run([ToySsm(hit_rate=0.95)], ToyLlm(), sampling=SamplingParams(stop_token_ids=(stop,)))
    assert token_ids == output[: output.index(stop) + 1]
    assert steps[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7])
async def test_the_last_step_is_cut_at_max_tokens(num_tokens: int) -> None:
    token_ids, steps = await run([ToySsm(hit_rate=1.0)], ToyLlm(), num_tokens)
    assert token_ids == toy_output(PROMPT, num_tokens)
    assert steps[-1].finish_reason is FinishReason.LENGTH


async def test_the_context_ends_it() -> None:
    token_ids, _ = await run([ToySsm(hit_rate=0.9)], ToyLlm(), 100_000)
    assert len(token_ids) == CONTEXT_LEN - len(PROMPT)
    assert token_ids == toy_output(PROMPT, len(token_ids))


async def test_closing_early_closes_both_sides() -> None:
    verifier, drafter = ToyLlm(), ToySsm()
    request = GenerationRequest("s", PROMPT, 60)
    async with session_of(request, [drafter], verifier, FixedShape(TreeShape(4, 2))) as session:
        await anext(session)
    assert verifier.closed == drafter.closed == ["s"]


@pytest.mark.parametrize("num_ticks", range(8))
async def test_sessions_are_closed_also_where_closing_is_cancelled(num_ticks: int) -> None:
    verifier, drafter = ToyLlm(), ToySsm()
    verifier.step_s = 0.005
    running = asyncio.create_task(run([drafter], verifier))
    await until(lambda: verifier.num_verified > 0)
    running.cancel()
    for _ in range(num_ticks):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: bool(verifier.closed and drafter.closed))
    assert (verifier.closed, drafter.closed) == (["s"], ["s"])


async def test_each_token_knows_who_drafted_it_and_statistics_add_up() -> None:
    class Right(ToySsm):
        def _tree(self, tokens: list[int], work: DraftWork) -> TokenTree:
            first = toy_next(tokens, 0)
            return TokenTree((tokens[-1], first), (-1, 0), (0.0, -0.5), (0, 0))

    token_ids, steps = await run([Right(("a",)), ToySsm(("b",), 0.0), Right(("c",))], ToyLlm(), 40)
    assert token_ids == toy_output(PROMPT, 40)
    tokens = [token for step in steps for token in step.tokens]
    assert {token.drafted_by for token in tokens} == {(), ("a", "c")}
    statistics = GenerationStatistics()
    for step in steps:
        statistics.add(step)
    assert statistics.num_output_tokens == 40
    assert statistics.num_verify_steps == len(steps) == sum(statistics.acceptance_histogram)
    assert sum(statistics.accepted_by_depth) == sum(bool(token.drafted_by) for token in tokens)


class _CountingDrafter(ToySsm):
    """Counts the trees that it has been asked for, when it is."""

    num_trees_asked = 0

    def session(self, session_id: str) -> ToyDrafterSession:
        drafter = self

        class Counting(ToyDrafterSession):
            def ask(self, work: DraftWork) -> bool:
                drafter.num_trees_asked += work.shape.max_num_nodes > 0
                return super().ask(work)

        return Counting(session_id, self)


async def test_the_next_tree_is_asked_for_before_the_caller_has_the_step() -> None:
    """So what the caller does with it costs no time of the models."""
    drafter, num_tokens, num_drafted = _CountingDrafter(), 60, 0
    request = GenerationRequest("s", PROMPT, num_tokens)
    async with session_of(request, [drafter], ToyLlm(), FixedShape(TreeShape(6, 3))) as session:
        async for step in session:
            num_tokens -= len(step.tokens)
            num_drafted += step.num_drafted_nodes > 0
            if step.num_drafted_nodes and num_tokens > 1:
                assert drafter.num_trees_asked == num_drafted + 1
    assert num_drafted > 5
