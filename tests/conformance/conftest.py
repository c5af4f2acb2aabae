"""The real engines behind their loops, and the toys that other tests use in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch

from llm_service.config import VerifierConfig
from specgrove.loop.drafter_side import Drafter
from specgrove.loop.verifying import Verifier
from specgrove.program.loading import load_decoder
from specgrove.runtime.in_process import InProcessDrafter, InProcessVerifier
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.step_loop import StepLoop
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from tests.gated import GatedEngine, GatedPool
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.waiting import until

ServiceT = TypeVar("ServiceT", Verifier, Drafter)


@dataclass(frozen=True, slots=True)
class Side(Generic[ServiceT]):
    """A verifier or a drafter, and a gate before its steps: while that is shut, items are taken in and stay under way."""

    service: ServiceT
    shut: Callable[[], None]
    open: Callable[[], None]
    is_under_way: Callable[[str], bool]


@contextmanager
def gated_loop(engine: GatedEngine | GatedPool) -> Iterator[tuple[StepLoop[Any, Any], Callable[[bool], None]]]:
    """The engine's loop, and what opens and shuts its gate."""
    loop = StepLoop(engine, "engine")

    def set_open(is_open: bool) -> None:
        engine.is_open = is_open
        loop.call(lambda: None)  # it looks again

    yield loop, set_open
    set_open(True)
    loop.stop()


@pytest.fixture(params=["toy", "engine"])
def verifying(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[Side[Verifier]]:
    if request.param == "toy":
        toy = ToyLlm()
        yield Side(toy, toy.gate.clear, toy.gate.set, toy.sessions.is_under_way)
        return
    runner = ModelRunner(load_decoder(tiny_llama, torch.float32), num_slots=400)
    engine = GatedEngine(runner, VerifierConfig(max_model_len=200, max_num_tree_nodes=64))
    with gated_loop(engine) as (loop, set_open):
        service = InProcessVerifier(loop)
        yield Side(
            service,
            partial(set_open, False),
            partial(set_open, True),
            lambda session_id: session_id in engine._items.pending,
        )


@pytest.fixture(params=["toy", "pool"])
def drafting(request: pytest.FixtureRequest, tiny_llama: Path) -> Iterator[Side[Drafter]]:
    if request.param == "toy":
        toy = ToySsm()
        yield Side(toy, toy.gate.clear, toy.gate.set, toy.sessions.is_under_way)
        return
    neural = NeuralSsm("tiny", ModelRunner(load_decoder(tiny_llama, torch.float32), 400), Beam(), None)
    pool = GatedPool([neural, LookupSsm("lookup")], PoolConfig())

    def is_under_way(name: str) -> bool:
        session = pool._sessions.get(name)
        return session is not None and session.pending is not None

    with gated_loop(pool) as (loop, set_open):
        yield Side(InProcessDrafter(loop), partial(set_open, False), partial(set_open, True), is_under_way)


async def held_back(side: Side[Any], name: str) -> None:
    """Returns when the session's item has been taken in."""
    await until(lambda: side.is_under_way(name))
