"""The real engines behind their loops, and the toys that other tests use in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.drafting import Drafter
from specgrove.models.loading import load_decoder
from specgrove.runtime.in_process import InProcessDrafter, InProcessVerifier
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from specgrove.speculation import Verifier
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.router.toy_services import ToyLlm, ToySsm
from tests.waiting import until


@dataclass(frozen=True, slots=True)
class Verifying:
    """A verifier, and a gate before its steps: while that is shut, items are taken in and stay under way."""

    verifier: Verifier
    shut: Callable[[], None]
    open: Callable[[], None]
    is_under_way: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class DraftingSide:
    """The same of a drafter."""

    drafter: Drafter
    shut: Callable[[], None]
    open: Callable[[], None]
    is_under_way: Callable[[str], bool]


class GatedEngine(VerifierEngine):
    """Has no work while its gate is shut."""

    is_open = True

    def has_work(self) -> bool:
        return self.is_open and super().has_work()


class GatedPool(DrafterPool):
    """The same."""

    is_open = True

    def has_work(self) -> bool:
        return self.is_open and super().has_work()


@pytest.fixture(params=["toy", "engine"])
def verifying(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[Verifying]:
    if request.param == "toy":
        toy = ToyLlm()
        yield Verifying(toy, toy.gate.clear, toy.gate.set, lambda name: name in toy.sessions)
        return
    runner = ModelRunner(load_decoder(tiny_llama, torch.float32), num_slots=400)
    engine = GatedEngine(runner, VerifierConfig(max_model_len=200, max_num_tree_nodes=64))
    loop = StepLoop(engine, "engine")

    def set_open(is_open: bool) -> None:
        engine.is_open = is_open
        loop.call(lambda: None)  # it looks again

    yield Verifying(
        InProcessVerifier(loop), lambda: set_open(False), lambda: set_open(True), engine._pending.__contains__
    )
    set_open(True)
    loop.stop()


@pytest.fixture(params=["toy", "pool"])
def drafting(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[DraftingSide]:
    if request.param == "toy":
        toy = ToySsm()
        yield DraftingSide(toy, toy.gate.clear, toy.gate.set, lambda name: name in toy.sessions)
        return
    neural = NeuralSsm("tiny", ModelRunner(load_decoder(tiny_llama, torch.float32), 400), Beam(), None)
    pool = GatedPool([neural, LookupSsm("lookup")], PoolConfig())
    loop = StepLoop(pool, "pool")

    def set_open(is_open: bool) -> None:
        pool.is_open = is_open
        loop.call(lambda: None)

    def is_under_way(name: str) -> bool:
        session = pool._sessions.get(name)
        return session is not None and session.pending is not None

    yield DraftingSide(InProcessDrafter(loop), lambda: set_open(False), lambda: set_open(True), is_under_way)
    set_open(True)
    loop.stop()


async def held_back(side: Verifying | DraftingSide, name: str) -> None:
    """Returns when the session's item has been taken in."""
    await until(lambda: side.is_under_way(name))
