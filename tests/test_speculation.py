"""The loop in-process with toy drafters and verifiers: whatever they do, the output is the incremental output."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.drafting import Drafter, Drafting
from specgrove.errors import DeadlineExceededError, InternalError, UnavailableError, WorkLostError
from specgrove.request import (
    Draft,
    DraftedTree,
    DraftWork,
    FinishReason,
    GenerationRequest,
    GenerationStatistics,
    SamplingParams,
    Step,
    TreeShape,
    Verdict,
    VerifyWork,
)
from specgrove.speculation import Verifier, generate
from specgrove.token_tree import TokenTree
from tests.router.toy_language import VOCAB_SIZE, toy_next, toy_output
from tests.router.toy_services import CONTEXT_LEN, ToyLlm, ToySsm
from tests.waiting import recorded_waits, until

PROMPT = (1, 2, 3)


class _Shape:
    def __init__(self, shape: TreeShape) -> None:
        self._shape = shape

    def shape(self) -> TreeShape:
        return self._shape

    def observe(self, step: Step) -> None:
        pass


class _Failing(ToySsm):
    """Raises, or never answers."""

    def __init__(self, failure: str) -> None:
        super().__init__()
        self._failure = failure

    async def draft(self, work: DraftWork) -> Draft:
        if self._failure == "lost":
            raise UnavailableError("gone")
        if self._failure == "hung":
            await asyncio.sleep(3600)
        return Draft(work.base + 1000, (DraftedTree("liar", TokenTree.of_root(5)),), 0.0)


class _Dying(ToyLlm):
    """Is lost now and then, and has forgotten everything when it is back."""

    async def _step(self, work: VerifyWork) -> Verdict:
        if self._random.random() < 0.4:
            self.sessions.clear()
            raise UnavailableError("gone")
        return await super()._step(work)


async def _run(
    drafters: Sequence[Drafter],
    verifier: Verifier,
    num_tokens: int = 60,
    shape: TreeShape = TreeShape(12, 5),  # noqa: B008
    **fields: Any,
) -> tuple[list[int], list[Step]]:
    request = GenerationRequest("s", PROMPT, num_tokens, **fields)
    steps = [
        step
        async for step in generate(
            request, drafters, verifier, _Shape(shape), vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN
        )
    ]
    return [token.token_id for step in steps for token in step.tokens], steps


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
        token_ids, steps = await _run(drafters, verifier, shape=TreeShape(max_num_nodes, max_depth))
        assert token_ids == toy_output(PROMPT, 60)
        assert [step.finish_reason for step in steps] == [None] * (len(steps) - 1) + [FinishReason.LENGTH]
        assert all(step.num_drafted_nodes <= max_num_nodes and step.drafted_depth <= max_depth for step in steps)
        assert verifier.closed == ["s"]
        assert not verifier.sessions

    asyncio.run(check())


@pytest.mark.parametrize("failure", ["lost", "hung", "lying"])
async def test_a_failing_drafter_costs_speed_only(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = _Failing(failure)
    waits = recorded_waits(monkeypatch)
    token_ids, steps = await _run([failing, ToySsm()], ToyLlm())
    assert token_ids == toy_output(PROMPT, 60)
    assert len(steps) < 60
    assert failing.closed == ["s"]
    if failure == "hung":  # it is waited for once, not in every step; the other one answers in each
        assert waits.count(min(waits)) == 1
        assert min(waits) < 0.1


async def test_a_verifier_that_is_lost_again_and_again() -> None:
    token_ids, steps = await _run([ToySsm()], _Dying())
    assert token_ids == toy_output(PROMPT, 60)
    assert sum(step.num_replays for step in steps) > 0


async def test_a_verifier_that_never_keeps_the_session_is_given_up() -> None:
    verifier = ToyLlm()

    async def lost(work: VerifyWork) -> Verdict:
        raise UnavailableError("gone")

    verifier._step = lost  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match="in 20 attempts"):
        await _run([], verifier)
    assert verifier.closed == ["s"]


@pytest.mark.parametrize(("was_alone", "num_tries"), [(True, 2), (False, 3)])
async def test_a_request_that_is_lost_by_itself_twice_is_given_up(was_alone: bool, num_tries: int) -> None:
    verifier, asked = ToyLlm(), []

    async def lost(work: VerifyWork) -> Verdict:
        asked.append(work)
        raise WorkLostError("the process died", was_alone=was_alone)

    verifier._step = lost  # type: ignore[method-assign]
    with pytest.raises(InternalError, match=r"made the service fail twice \(the process died\)"):
        await _run([], verifier)
    assert [work.is_suspect for work in asked] == [False] + [True] * (num_tries - 1)
    assert verifier.closed == ["s"]


async def test_a_verdict_clears_a_suspect() -> None:
    class Mortal(ToyLlm):
        """Dies at every step, and makes it the second time."""

        num_asked = 0

        async def _step(self, work: VerifyWork) -> Verdict:
            self.num_asked += 1
            if self.num_asked % 2:
                self.sessions.clear()
                raise WorkLostError("killed", was_alone=True)
            return await super()._step(work)

    token_ids, steps = await _run([], Mortal(), 40)
    assert token_ids == toy_output(PROMPT, 40)
    assert sum(step.num_replays for step in steps) >= 20


class _Broken(ToySsm):
    """Fails until it is mended, its session left as it is."""

    is_broken = True

    async def draft(self, work: DraftWork) -> Draft:
        if self.is_broken:
            self.asked.append(work)
            raise InternalError("broken")
        return await super().draft(work)


async def test_a_drafter_that_fails_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    broken = _Broken()
    token_ids, steps = await _run([broken], ToyLlm(), 300)
    assert token_ids == toy_output(PROMPT, 300)
    assert len(steps) == 300
    assert len(broken.asked) <= 8  # after 4, 8, 16, ... steps
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_drafter_that_works_again_is_asked_for_what_it_lacks() -> None:
    broken = _Broken()
    broken.is_broken = False
    drafting = Drafting(GenerationRequest("s", PROMPT, 60), [broken], VOCAB_SIZE)
    committed = [*PROMPT]
    await drafting.draft(committed, TreeShape(4, 2))
    broken.is_broken = True
    for _ in range(2):
        committed.append(5)
        assert (await drafting.draft(committed, TreeShape(4, 2)))[1] == ()
    broken.is_broken = False
    names: tuple[str, ...] = ()
    while not names:
        committed.append(5)
        _, names, _ = await drafting.draft(committed, TreeShape(4, 2))
    assert names == ("toy-a", "toy-b")
    assert [len(work.new_token_ids) for work in broken.asked] == [3, 1, len(committed) - 3]


async def test_a_verdict_for_another_base_is_a_defect() -> None:
    verifier = ToyLlm()

    async def wrong(work: VerifyWork) -> AsyncGenerator[Verdict, None]:
        yield Verdict(99, (1,), ())

    verifier.verify = wrong  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="for base 99"):
        await _run([], verifier)


async def test_a_verifier_that_falls_silent_is_a_defect() -> None:
    verifier = ToyLlm()

    async def silent(work: VerifyWork) -> AsyncGenerator[Verdict, None]:
        async for verdict in ToyLlm().verify(work):
            yield verdict
            return

    verifier.verify = silent  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="answered nothing"):
        await _run([], verifier)


class _Counting(ToyLlm):
    """Remembers how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[VerifyWork] = []

    def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict, None]:
        self.asked.append(work)
        return super().verify(work)


async def test_without_drafters_the_verifier_goes_on_by_itself() -> None:
    verifier = _Counting()
    token_ids, steps = await _run([], verifier, 100)
    assert token_ids == toy_output(PROMPT, 100)
    assert len(steps) == verifier.num_verified == 100
    assert [work.num_steps for work in verifier.asked] == [64, 36]
    assert verifier.asked[1].new_token_ids == ()


@pytest.mark.parametrize("num_tokens", [1, 2, 33, 60])
async def test_a_verdict_may_hold_several_steps(num_tokens: int) -> None:
    verifier = ToyLlm()
    verifier.num_joined = 4
    output, steps = await _run([], verifier, num_tokens)
    assert output == toy_output(PROMPT, num_tokens)
    statistics = GenerationStatistics()
    for step in steps:
        assert step.num_steps == len(step.tokens) <= 4
        statistics.add(step)
    assert statistics.num_verify_steps == num_tokens == verifier.num_verified
    assert statistics.acceptance_histogram == [num_tokens]
    assert len(steps) == num_tokens if num_tokens < 3 else len(steps) < num_tokens / 2


async def test_several_steps_of_a_lost_verifier_are_made_again() -> None:
    verifier = _Dying()
    verifier.num_joined = 3
    output, steps = await _run([], verifier)
    assert output == toy_output(PROMPT, 60)
    assert sum(step.num_replays for step in steps) > 0


async def test_where_the_policy_drafts_nothing_the_verifier_goes_on_by_itself() -> None:
    verifier, drafter = _Counting(), ToySsm(hit_rate=0.9)

    class Alternating(_Shape):
        num_asked = 0

        def shape(self) -> TreeShape:
            self.num_asked += 1
            return self._shape if self.num_asked % 2 else TreeShape(0, 0, num_steps=5)

    policy = Alternating(TreeShape(6, 3))
    request = GenerationRequest("s", PROMPT, 60)
    steps = generate(request, [drafter], verifier, policy, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN)
    token_ids = [token.token_id async for step in steps for token in step.tokens]
    assert token_ids == toy_output(PROMPT, 60)
    assert {work.num_steps for work in verifier.asked[:-1]} == {1, 2, 5}
    assert all(work.num_steps == 1 for work in verifier.asked if work.tree.num_nodes > 1)
    # While the prompt is read nothing is drafted; then the drafter reads it.
    assert len(drafter.asked) == policy.num_asked // 2 + policy.num_asked % 2 - 1


class _Planned(_Shape):
    """Shapes as planned, the last one again and again; remembers what it observed."""

    def __init__(self, *shapes: TreeShape) -> None:
        super().__init__(shapes[-1])
        self.planned = list(shapes)
        self.observed: list[Step] = []

    def shape(self) -> TreeShape:
        return self.planned.pop(0) if self.planned else self._shape

    def observe(self, step: Step) -> None:
        self.observed.append(step)


async def _run_planned(
    verifier: Verifier, drafters: Sequence[Drafter], policy: _Planned, num_tokens: int = 60
) -> list[int]:
    request = GenerationRequest("s", PROMPT, num_tokens)
    steps = generate(request, drafters, verifier, policy, vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN)
    return [token.token_id async for step in steps for token in step.tokens]


async def test_where_nothing_is_drafted_drafters_are_not_even_told_of_tokens() -> None:
    verifier, drafter, policy = _Counting(), ToySsm(), _Planned(TreeShape(0, 0, num_steps=64))
    assert await _run_planned(verifier, [drafter], policy, 100) == toy_output(PROMPT, 100)
    assert [work.num_steps for work in verifier.asked] == [64, 36]
    assert not drafter.asked
    assert all(step.probe is None and step.reading is None for step in policy.observed)


class _OneByOne(ToySsm):
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


class _Chains(ToySsm):
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
    verifier, drafter = _Counting(), _Chains(num_right)
    verifier.step_s = 0.002
    policy = _Planned(TreeShape(0, 0, num_steps=30, probe=TreeShape(4, 4)), TreeShape(0, 0, num_steps=30))
    assert await _run_planned(verifier, [drafter], policy) == toy_output(PROMPT, 60)
    assert all(work.tree.num_nodes == 1 for work in verifier.asked)
    assert [work.num_steps for work in verifier.asked] == [30, 30]
    (probe,) = (step.probe for step in policy.observed if step.probe is not None)
    assert (probe.num_nodes, probe.asked_depth, probe.accepted_depth) == (4, 4, num_right)
    (reading,) = (step.reading for step in policy.observed if step.reading is not None)
    assert reading.num_tokens == len(PROMPT)


async def test_a_probe_is_called_off_when_a_tree_is_wanted(caplog: pytest.LogCaptureFixture) -> None:
    """One drafter is still reading for the probe, the other one drafts for steps: it was asked for both at once."""
    verifier, quick, slow = _Counting(), _OneByOne(), ToySsm(("slow",))
    slow.gate.clear()
    verifier.step_s = 0.002
    policy = _Planned(*[TreeShape(0, 0, num_steps=2, probe=TreeShape(4, 4))] * 2, TreeShape(6, 3))
    opening = asyncio.get_running_loop().call_later(0.15, slow.gate.set)
    assert await _run_planned(verifier, [quick, slow], policy, 100) == toy_output(PROMPT, 100)
    opening.cancel()
    assert any(work.tree.num_nodes > 1 for work in verifier.asked)
    assert quick.max_num_under_way == 1
    assert all(work.shape.max_num_nodes in (0, 6) for work in quick.asked)
    assert "malformed" not in caplog.text


async def test_drafters_that_have_much_to_read_do_so_while_the_verifier_goes_on() -> None:
    verifier, drafter = _Counting(), ToySsm(hit_rate=0.9)
    verifier.step_s = 0.001
    policy = _Planned(TreeShape(0, 0, num_steps=64), TreeShape(0, 0, num_steps=16), TreeShape(6, 3))
    assert await _run_planned(verifier, [drafter], policy, 150) == toy_output(PROMPT, 150)
    assert [work.num_steps for work in verifier.asked][:3] == [64, 16, 2]
    assert drafter.asked[0].shape.max_num_nodes == 0
    assert len(drafter.asked[0].new_token_ids) == len(PROMPT) + 80
    assert any(work.tree.num_nodes > 1 for work in verifier.asked[3:])


async def test_the_first_stop_token_ends_what_was_made_ahead() -> None:
    verifier, output = ToyLlm(), toy_output(PROMPT, 60)
    stop = output[20]
    token_ids, _ = await _run([], verifier, sampling=SamplingParams(stop_token_ids=(stop,)))
    assert token_ids == output[: output.index(stop) + 1]
    assert verifier.num_verified == len(token_ids)


async def test_the_deadline_ends_it() -> None:
    with pytest.raises(DeadlineExceededError):
        await _run([], ToyLlm(step_s=0.01), 400, deadline_s=time.monotonic() + 0.1)


async def test_stop_tokens_cut_the_step() -> None:
    output = toy_output(PROMPT, 60)
    stop = output[20]
    token_ids, steps = await _run([ToySsm(hit_rate=0.95)], ToyLlm(), sampling=SamplingParams(stop_token_ids=(stop,)))
    assert token_ids == output[: output.index(stop) + 1]
    assert steps[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 7])
async def test_the_last_step_is_cut_at_max_tokens(num_tokens: int) -> None:
    token_ids, steps = await _run([ToySsm(hit_rate=1.0)], ToyLlm(), num_tokens)
    assert token_ids == toy_output(PROMPT, num_tokens)
    assert steps[-1].finish_reason is FinishReason.LENGTH


async def test_the_context_ends_it() -> None:
    token_ids, _ = await _run([ToySsm(hit_rate=0.9)], ToyLlm(), 100_000)
    assert len(token_ids) == CONTEXT_LEN - len(PROMPT)
    assert token_ids == toy_output(PROMPT, len(token_ids))


async def test_closing_early_closes_both_sides() -> None:
    verifier, drafter = ToyLlm(), ToySsm()
    request = GenerationRequest("s", PROMPT, 60)
    steps = generate(
        request, [drafter], verifier, _Shape(TreeShape(4, 2)), vocab_size=VOCAB_SIZE, context_len=CONTEXT_LEN
    )
    await anext(steps)
    await steps.aclose()
    assert verifier.closed == drafter.closed == ["s"]


@pytest.mark.parametrize("num_ticks", range(8))
async def test_sessions_are_closed_also_where_closing_is_cancelled(num_ticks: int) -> None:
    verifier, drafter = ToyLlm(), ToySsm()
    verifier.step_s = 0.005
    running = asyncio.create_task(_run([drafter], verifier))
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

    token_ids, steps = await _run([Right(("a",)), ToySsm(("b",), 0.0), Right(("c",))], ToyLlm(), 40)
    assert token_ids == toy_output(PROMPT, 40)
    tokens = [token for step in steps for token in step.tokens]
    assert {token.drafted_by for token in tokens} == {(), ("a", "c")}
    statistics = GenerationStatistics()
    for step in steps:
        statistics.add(step)
    assert statistics.num_output_tokens == 40
    assert statistics.num_verify_steps == len(steps) == sum(statistics.acceptance_histogram)
    assert sum(statistics.accepted_by_depth) == sum(bool(token.drafted_by) for token in tokens)
