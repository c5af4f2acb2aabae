"""Drafters and verifiers that fail, hang, lie or are lost: drafters cost speed only, and the output is the incremental one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from specgrove.errors import InternalError, UnavailableError, WorkLostError
from specgrove.loop.drafting import Drafting
from specgrove.loop.request import GenerationRequest
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.told import Told
from specgrove.loop.verifier_knowledge import NO_WISHES, HiddenStates
from specgrove.loop.verifying import Verifying
from specgrove.loop.works import Draft, DraftedTree, DraftWork, LogProbs, PromptProgress, TreeShape, Verdict, VerifyWork
from tests.loop.loops import PROMPT, Dying, run
from tests.router.toy_language import VOCAB_SIZE, toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.waiting import recorded_waits


class Failing(ToySsm):
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


async def test_for_a_drafter_that_is_away_nothing_is_joined_or_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    away, joins = ToySsm(), []
    monkeypatch.setattr(away, "is_there", lambda ssms: False)
    monkeypatch.setattr(Told, "hidden_states", lambda self, start, end: joins.append(start))
    drafting = Drafting(GenerationRequest("s", PROMPT, 60), [away], VOCAB_SIZE, Told(NO_WISHES))
    drafting.take_in(list(PROMPT))
    merged = await drafting.ask(list(PROMPT), TreeShape(4, 2)).merged()
    assert (merged.tree.num_nodes, away.asked, joins) == (1, [], [])
    monkeypatch.setattr(away, "is_there", lambda ssms: True)
    assert (await drafting.ask(list(PROMPT), TreeShape(4, 2)).merged()).tree.num_nodes > 1
    assert joins == [0]
    await drafting.close()


@pytest.mark.parametrize("failure", ["lost", "hung", "lying"])
async def test_a_failing_drafter_costs_speed_only(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing(failure)
    waits = recorded_waits(monkeypatch)
    token_ids, steps = await run([failing, ToySsm()], ToyLlm())
    assert token_ids == toy_output(PROMPT, 60)
    assert len(steps) < 60
    assert failing.closed == ["s"]
    if failure == "hung":  # it is waited for once, not in every step; the other one answers in each
        assert waits.count(min(waits)) == 1
        assert min(waits) < 0.1


async def test_a_verifier_that_is_lost_again_and_again() -> None:
    token_ids, steps = await run([ToySsm()], Dying())
    assert token_ids == toy_output(PROMPT, 60)
    assert sum(step.num_replays for step in steps) > 0


async def test_a_verifier_that_never_keeps_the_session_is_given_up() -> None:
    verifier = ToyLlm()

    async def lost(work: VerifyWork) -> Verdict:
        raise UnavailableError("gone")

    verifier._step = lost  # type: ignore[method-assign]
    with pytest.raises(UnavailableError, match="in 20 attempts"):
        await run([], verifier)
    assert verifier.closed == ["s"]


@pytest.mark.parametrize(("was_alone", "num_tries"), [(True, 2), (False, 3)])
async def test_a_request_that_is_lost_by_itself_twice_is_given_up(was_alone: bool, num_tries: int) -> None:
    verifier, asked = ToyLlm(), []

    async def lost(work: VerifyWork) -> Verdict:
        asked.append(work)
        raise WorkLostError("the process died", was_alone=was_alone)

    verifier._step = lost  # type: ignore[method-assign]
    with pytest.raises(InternalError, match=r"made the service fail twice \(the process died\)"):
        await run([], verifier)
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

    token_ids, steps = await run([], Mortal(), 40)
    assert token_ids == toy_output(PROMPT, 40)
    assert sum(step.num_replays for step in steps) >= 20


class Broken(ToySsm):
    """Fails until it is mended, its session left as it is."""

    is_broken = True

    async def draft(self, work: DraftWork) -> Draft:
        if self.is_broken:
            self.asked.append(work)
            raise InternalError("broken")
        return await super().draft(work)


async def test_a_drafter_that_fails_is_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    token_ids, steps = await run([broken], ToyLlm(), 300)
    assert token_ids == toy_output(PROMPT, 300)
    assert len(steps) == 300
    assert len(broken.asked) <= 8  # after 4, 8, 16, ... steps
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_a_drafter_that_works_again_is_asked_for_what_it_lacks() -> None:
    broken = Broken()
    broken.is_broken = False
    drafting = Drafting(GenerationRequest("s", PROMPT, 60), [broken], VOCAB_SIZE, Told(NO_WISHES))
    committed = [*PROMPT]
    await drafting.ask(committed, TreeShape(4, 2)).merged()
    broken.is_broken = True
    for _ in range(2):
        committed.append(5)
        assert (await drafting.ask(committed, TreeShape(4, 2)).merged()).ssms == ()
    broken.is_broken = False
    names: tuple[str, ...] = ()
    while not names:
        committed.append(5)
        names = (await drafting.ask(committed, TreeShape(4, 2)).merged()).ssms
    assert names == ("toy-a", "toy-b")
    assert [len(work.new_token_ids) for work in broken.asked] == [3, 1, len(committed) - 3]


async def test_a_verdict_for_another_base_is_a_defect() -> None:
    verifier = ToyLlm()

    async def wrong(work: VerifyWork) -> AsyncGenerator[Verdict, None]:
        yield Verdict(99, (1,), ())

    verifier.verify = wrong  # type: ignore[method-assign]
    with pytest.raises(InternalError, match="for base 99"):
        await run([], verifier)


@pytest.mark.parametrize(
    ("accepted", "left_out", "complaint"),
    [
        ((99,), (), r"told of nodes \[99\] of a tree of"),
        ((1,), (1,), r"accepted nodes \[1\] and left them out"),
        ((), (1,), "left out node 1 and verified node 2 below it"),
    ],
)
async def test_a_verdict_that_contradicts_its_tree_is_a_defect(
    accepted: tuple[int, ...], left_out: tuple[int, ...], complaint: str
) -> None:
    verifier = ToyLlm()

    async def wrong(work: VerifyWork) -> AsyncGenerator[Verdict, None]:
        is_chain = work.tree.parents[:3] == (-1, 0, 1)
        found = (accepted, left_out) if is_chain else ((), ())
        yield Verdict(
            work.base + len(work.new_token_ids), (1,) * (1 + len(found[0])), found[0], left_out_nodes=found[1]
        )

    verifier.verify = wrong  # type: ignore[method-assign]
    with pytest.raises(InternalError, match=complaint):
        await run([ToySsm()], verifier)


async def test_log_probabilities_beside_hidden_states_are_not_lost() -> None:
    told = HiddenStates(0, 1, (0,), bytes(2))
    progress = PromptProgress(2, 1, (LogProbs(-1.0, ()),), told)
    verifying = _verifying_of([PromptProgress(1, hidden_states=told), progress])
    assert await verifying._next_answer() == replace(progress, hidden_states=None)


def _verifying_of(answers: list[PromptProgress]) -> Verifying:
    class Session:
        async def answer(self) -> PromptProgress:
            return answers.pop(0)

    verifying = object.__new__(Verifying)
    verifying._session, verifying._told = Session(), Told(NO_WISHES)  # type: ignore[assignment]
    return verifying


async def test_several_steps_of_a_lost_verifier_are_made_again() -> None:
    verifier = Dying()
    verifier.num_joined = 3
    output, steps = await run([], verifier)
    assert output == toy_output(PROMPT, 60)
    assert sum(step.num_replays for step in steps) > 0
