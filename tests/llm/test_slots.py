"""The verifier engine under any work: each KV slot has one owner, each item one end, and outputs are the incremental ones.

Over runners with one or two passes in flight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.kernels.rows import PassRows
from specgrove.loop.request import SamplingParams
from specgrove.loop.works import LogProbs
from specgrove.program.backend import PassOutput
from specgrove.program.decoder import Decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.conftest import RunnerAhead
from tests.llm.router_sessions import NUM_LOG_PROBS
from tests.llm.verifier_machine import VerifierMachine
from tests.llm.verifying import Clock, incremental, prompt_log_probs

MAX_NUM_OUTPUT_TOKENS = 40


class TwoInFlight(ModelRunner):
    """Pipeline stages: two passes under way, of different sessions."""

    max_num_in_flight = 2


class LateTwoInFlight(TwoInFlight):
    """The same; every pass computes at the last moment, so that it shows when something it was given changes under way."""

    def __init__(self, decoder: Decoder, num_slots: int) -> None:
        super().__init__(decoder, num_slots)
        self._begun: list[PassRows] = []

    def start(self, rows: PassRows) -> None:
        self._begun.append(rows)

    def finish(self) -> PassOutput:
        super().start(self._begun.pop(0))
        return super().finish()

    def discard(self) -> None:
        self._begun.clear()
        super().discard()


@pytest.fixture(scope="module")
def expected_output(runner: ModelRunner) -> Callable[[tuple[int, ...], SamplingParams], list[int]]:
    """The output without speculation, alone, with room for all."""
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, has_prefix_cache=False))

    @functools.cache
    def output_of(prompt: tuple[int, ...], sampling: SamplingParams) -> list[int]:
        return incremental(engine, list(prompt), MAX_NUM_OUTPUT_TOKENS, sampling)[:MAX_NUM_OUTPUT_TOKENS]

    return output_of


@pytest.fixture(scope="module")
def expected_log_probs(runner: ModelRunner) -> Callable[[tuple[int, ...]], list[LogProbs]]:
    engine = VerifierEngine(runner, VerifierConfig(max_model_len=200, has_prefix_cache=False))
    return functools.cache(lambda prompt: prompt_log_probs(engine, list(prompt), NUM_LOG_PROBS))


@pytest.mark.parametrize("num_walks", [12, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("num_slots", [100, 1000], ids=["little room", "room for all"])
@pytest.mark.parametrize("runner_type", [ModelRunner, TwoInFlight, LateTwoInFlight, RunnerAhead])
def test_whatever_happens(
    runner: ModelRunner,
    expected_output: Callable[[tuple[int, ...], SamplingParams], list[int]],
    expected_log_probs: Callable[[tuple[int, ...]], list[LogProbs]],
    runner_type: type[ModelRunner],
    num_slots: int,
    num_walks: int,
) -> None:
    own_runner = runner_type(runner.decoder, num_slots)
    config = VerifierConfig(max_model_len=200, max_num_chunk_tokens=16, max_num_tree_rows=24, max_num_tree_nodes=24)

    def make_engine(clock: Clock) -> VerifierEngine:
        own_runner.discard()
        return VerifierEngine(own_runner, replace(config, stream_interval_s=0.2), clock)

    attributes = {
        "make_engine": staticmethod(make_engine),
        "expected_output": staticmethod(expected_output),
        "expected_log_probs": staticmethod(expected_log_probs),
        "num_slots": num_slots,
    }
    run_state_machine_as_test(
        type("Machine", (VerifierMachine,), attributes),
        settings=settings(max_examples=num_walks, stateful_step_count=60, deadline=None, derandomize=True),
    )
