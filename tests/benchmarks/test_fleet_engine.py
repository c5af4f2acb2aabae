"""The real engine in virtual time, over a runner without a model: its verdicts come when the simulated replica's do."""

from __future__ import annotations

import heapq
import random
from collections import deque
from types import SimpleNamespace

import pytest
import torch

from benchmarks.fleet.shape import FleetShape
from benchmarks.fleet.simulation import Simulation
from benchmarks.fleet.times import Times
from benchmarks.fleet.workload import Arrival
from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.kernels.rows import PassRows
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SessionParams, Verdict, VerifyWork
from specgrove.program.backend import PassOutput
from tests.llm.verifying import Clock

_HOP_MS = 1.0
# Each row takes 1 ms, a pass 9 ms more.
_TIMES = Times(((1, 10.0), (1001, 1010.0)), hop_ms=_HOP_MS)
_TOKEN_ID = 1


class NoModel:
    """A ``Runner`` whose passes take their time on the clock, one after the other."""

    max_num_in_flight = 1
    choices_are_cheap = True
    num_slots = 10_000
    spec = SimpleNamespace(vocab_size=10)
    decoder = SimpleNamespace(hidden_layers=range(0))

    def __init__(self, clock: Clock, max_num_ahead: int) -> None:
        self.max_num_ahead = max_num_ahead
        self._clock = clock
        self._ends_s = 0.0
        self._in_flight: deque[tuple[float, int]] = deque()

    def start(self, rows: PassRows) -> None:
        self._ends_s = max(self._ends_s, self._clock.now_s) + (9.0 + rows.num_rows) / 1e3
        self._in_flight.append((self._ends_s, len(rows.asked_rows)))

    def finish(self) -> PassOutput:
        self._clock.now_s, num_asked = self._in_flight.popleft()
        return PassOutput([_TOKEN_ID] * num_asked, torch.empty(0, 10))

    def discard(self) -> None:
        self._in_flight.clear()


def engine_times_ms(arrivals: list[Arrival], shape: FleetShape) -> list[list[float]]:
    """Times of the requests' tokens at a router that does all at once, from an engine that is driven as the step loop drives it."""
    clock = Clock()
    config = VerifierConfig(
        10_000, shape.max_num_chunk_tokens, stream_interval_s=shape.stream_interval_ms / 1e3, has_prefix_cache=False
    )
    engine = VerifierEngine(NoModel(clock, 64 if shape.has_passes_ahead else 0), config, clock)  # type: ignore[arg-type]
    # By when they come: the request's number, and how many tokens of its output there are.
    letters = [(arrival.at_s + _HOP_MS / 1e3, number, 0) for number, arrival in enumerate(arrivals)]
    heapq.heapify(letters)
    times_ms: list[list[float]] = [[] for _ in arrivals]
    while letters or engine.has_work():
        while letters and letters[0][0] <= clock.now_s:
            _, number, num_told = heapq.heappop(letters)
            engine.add(number, work_of(number, arrivals[number], num_told, shape))
        if not engine.has_work():
            clock.now_s = letters[0][0]
            continue
        for number, verdict in engine.step():
            assert isinstance(verdict, Verdict)
            times_ms[number] += [clock.now_s * 1e3 + _HOP_MS] * len(verdict.token_ids)
            if len(times_ms[number]) == arrivals[number].output_len:
                engine.close_session(f"s{number}")
            elif not verdict.has_more:
                heapq.heappush(letters, (clock.now_s + 2 * _HOP_MS / 1e3, number, len(times_ms[number])))
    return times_ms


def work_of(number: int, arrival: Arrival, num_told: int, shape: FleetShape) -> VerifyWork:
    is_first = num_told == 0
    return VerifyWork(
        f"s{number}",
        0 if is_first else arrival.prompt_len + num_told,
        (_TOKEN_ID,) * arrival.prompt_len if is_first else (),
        TokenTree.of_root(_TOKEN_ID),
        SessionParams(SamplingParams(), arrival.prompt_len) if is_first else None,
        num_steps=min(shape.max_num_steps_ahead, arrival.output_len - num_told),
    )


@pytest.mark.parametrize("has_passes_ahead", [False, True])
@pytest.mark.parametrize("interval_ms", [0.0, 25.5])
@pytest.mark.parametrize("max_num_steps_ahead", [5, 64])
def test_the_engine_does_what_is_simulated(
    has_passes_ahead: bool,
    interval_ms: float,
    max_num_steps_ahead: int,
) -> None:
    shape = FleetShape(
        max_num_chunk_tokens=16,
        stream_interval_ms=interval_ms,
        max_num_steps_ahead=max_num_steps_ahead,
        has_passes_ahead=has_passes_ahead,
    )
    for seed in range(20):
        rng = random.Random(seed)
        arrivals = sorted(
            (Arrival(rng.random(), rng.randint(1, 60), rng.randint(1, 30), number) for number in range(8)),
            key=lambda arrival: arrival.at_s,
        )
        served = sorted(Simulation(shape, _TIMES).run(arrivals), key=lambda each: each.arrival.at_s)
        found = engine_times_ms(arrivals, shape)
        for of_engine, simulated in zip(found, served, strict=True):
            assert of_engine == pytest.approx([time_s * 1e3 for time_s in simulated.token_times_s]), f"seed {seed}"
