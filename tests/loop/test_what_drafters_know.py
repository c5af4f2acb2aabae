"""What drafters are told of the verifier: how it samples, whenever a session begins with them, a replay included."""

from __future__ import annotations

from specgrove.errors import StaleBaseError
from specgrove.loop.request import SamplingParams
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftWork
from tests.loop.loops import run
from tests.router.toy_services import ToyLlm
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
