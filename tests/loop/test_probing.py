"""Probes: trees that are drafted beside the verifier's own steps, and compared with what it decides."""

from __future__ import annotations

import asyncio

import pytest

from specgrove.loop import drafting as drafting_module
from specgrove.loop.drafting import Drafting
from specgrove.loop.output import Probe
from specgrove.loop.probing import Probing
from specgrove.loop.request import GenerationRequest
from specgrove.loop.told import Told
from specgrove.loop.verifier_knowledge import NO_WISHES
from specgrove.loop.works import TreeShape
from tests.router.toy_language import VOCAB_SIZE, toy_output
from tests.router.toy_ssm import ToySsm
from tests.waiting import until

PROMPT = (1, 2, 3)


async def test_a_probe_waits_for_a_drafter_that_is_still_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asked while it could not answer, and that nothing came counted as a wrong token."""
    monkeypatch.setattr(drafting_module, "_LATE_DRAFT_WAIT_S", 0)
    drafter = ToySsm(("right",), hit_rate=1.0)
    drafter.gate.clear()
    drafting = Drafting(GenerationRequest("s", PROMPT, 100), [drafter], VOCAB_SIZE, Told(NO_WISHES))
    probing = Probing(drafting)
    drafting.take_in(list(PROMPT))
    await until(lambda: len(drafter.asked) == 1)
    probing.start(list(PROMPT), TreeShape(1, 1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(drafter.asked) == 1
    drafter.gate.set()
    found: list[Probe] = []

    def has_ended() -> bool:
        probe = probing.result([*PROMPT, *toy_output(PROMPT, 4)])
        found.extend([probe] if probe is not None else [])
        return bool(found)

    await until(has_ended)
    assert [(probe.tree.num_nodes - 1, probe.asked.max_depth, probe.accepted_depth) for probe in found] == [(1, 1, 1)]
    await probing.close()
    await drafting.close()
