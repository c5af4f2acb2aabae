"""What drafters are told of the verifier: how it samples, whenever a session begins with them, a replay included; hidden states where the
policy wants them."""

from __future__ import annotations

import pytest

from specgrove.errors import StaleBaseError
from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.speculation import Session
from specgrove.loop.verifier_knowledge import DrafterWishes, DraftSampling
from specgrove.loop.works import Draft, DraftWork, TreeShape, Verdict, VerifyWork
from tests.loop.loops import PROMPT, Counting, Dying, Planned, run, run_planned
from tests.router.toy_language import VOCAB_SIZE, toy_output
from tests.router.toy_services import CONTEXT_LEN, ToyLlm
from tests.router.toy_ssm import ToySsm


class Forgetful(ToySsm):
    """Remembers what it was told, and forgets the session once."""

    def __init__(self) -> None:
        super().__init__()
        self.works: list[DraftWork] = []

    async def draft(self, work: DraftWork) -> Draft:
        self.works.append(work)
        if len(self.works) == 5:
            raise StaleBaseError(0)
        return await super().draft(work)


async def test_drafters_are_told_how_the_verifier_samples() -> None:
    drafter = Forgetful()
    await run([drafter], ToyLlm(), sampling=SamplingParams(temperature=0.5, seed=7, top_k=40, top_p=0.9, min_p=0.1))
    told = [work.sampling for work in drafter.works]
    begun = [work.base == 0 for work in drafter.works]
    assert begun.count(True) == 2
    assert told == [DraftSampling(0.5, 7, 40, 0.9) if is_first else None for is_first in begun]


async def test_of_a_greedy_verifier_nothing_is_told() -> None:
    drafter = Forgetful()
    await run([drafter], ToyLlm(), sampling=SamplingParams(temperature=1e-5, seed=7))
    assert {work.sampling for work in drafter.works} == {None}


QUIET = TreeShape(0, 0, num_steps=4, wants_hidden_states=False)
CURIOUS = TreeShape(0, 0, num_steps=4)
DRAFTING = TreeShape(6, 3)


async def test_hidden_states_are_wanted_as_the_policy_says() -> None:
    """Also where a tree is to come, and the verifier goes on by itself till drafters have read."""
    llm = Counting()
    await run_planned(llm, [ToySsm()], Planned(QUIET, QUIET, CURIOUS, QUIET, DRAFTING), 40)
    assert [work.tells_hidden_states for work in llm.asked[:4]] == [False, False, True, False]
    assert all(work.tells_hidden_states for work in llm.asked[4:])
    assert len(llm.asked) > 5


class Remembering(Dying):
    def __init__(self) -> None:
        super().__init__()
        self.opened_with: list[bool] = []

    async def _step(self, work: VerifyWork) -> Verdict:
        self.opened_with.append(work.tells_hidden_states)
        return await super()._step(work)


async def test_a_replay_wants_what_was_wanted() -> None:
    llm = Remembering()
    await run_planned(llm, [ToySsm()], Planned(QUIET), 40)
    assert len(llm.opened) > 1
    assert set(llm.opened_with) == {False}


@pytest.mark.parametrize(("layers", "num_ended"), [((1,), 1), ((), 0)])
async def test_steps_under_way_that_tell_in_vain_are_ended(layers: tuple[int, ...], num_ended: int) -> None:
    """Of requests that come at once the first can't see the others: it wants trees before its prompt is read, and none afterwards."""
    llm = Counting()
    llm.step_s = 0.001
    request = GenerationRequest("s", PROMPT, 60)
    session = Session(
        request, [ToySsm()], llm, Planned(DRAFTING, QUIET),
        vocab_size=VOCAB_SIZE, max_model_len=CONTEXT_LEN, wishes=DrafterWishes(layers, 8),
    )  # fmt: skip
    async with session:
        tokens = [token.token_id async for step in session for token in step.tokens]
    assert tokens == toy_output(PROMPT, 60)
    assert len(llm.finished_early) == num_ended
    assert [work.tells_hidden_states for work in llm.asked][: 1 + num_ended] == [True, False][: 1 + num_ended]
