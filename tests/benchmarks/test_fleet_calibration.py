"""Calibration measures what is there: of a simulated suite the times that it was simulated with."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from benchmarks.fleet.calibration import step_ms, times_by_requests
from benchmarks.fleet.shape import FleetShape
from benchmarks.fleet.simulation import Simulation
from benchmarks.fleet.times import Rows, Times
from benchmarks.fleet.workload import Arrival, Served
from specgrove.client.output import Usage

# A step of one session takes 11 to 12 ms, so tokens come in twos; one of eight takes more than the interval of verdicts.
TRUE = Times(
    pass_ms=((1, 10.0), (2, 11.0), (4, 13.0), (8, 17.0), (128, 137.0)),
    prompt_ms=((8, 16.0), (32, 30.0), (128, 120.0), (256, 250.0)),
    overhead_ms=((1, 1.0), (2, 1.5), (4, 2.5), (8, 6.0)),
    context_ms=2.0,
    prompt_context_ms=0.1,
    hop_ms=0.5,
    request_ms=3.0,
    verdict_ms=0.5,
    client_ms=2.0,
)


class SimulatedSuite:
    """Answers in virtual time."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.router_s = 0.0

    async def ask(self, arrivals: list[Arrival]) -> tuple[list[Served], list[Usage]]:
        served = Simulation(FleetShape(), self.times).run(arrivals)
        for each in served:
            num_verdicts = len(set(each.token_times_s))
            self.router_s += (self.times.request_ms + num_verdicts * self.times.verdict_ms) / 1e3
        return served, [self._usage(each) for each in served]

    def _usage(self, served: Served) -> Usage:
        length = served.arrival.prompt_len
        verify_ms = replace(self.times, overhead_ms=((1, 0.0),)).pass_of(Rows(num_of_prompts=length, num_works=1))
        return Usage(length, len(served.token_times_s), 1, (), (), (), 0, 0.0, 0.0, 0.0, verify_ms, 0, 0)


def test_the_times_that_are_there_are_found() -> None:
    suite = SimulatedSuite(TRUE)
    bare = Times(TRUE.pass_ms, hop_ms=TRUE.hop_ms)
    found = asyncio.run(times_by_requests(bare, suite.ask, lambda: suite.router_s))
    assert found.prompt_ms == TRUE.prompt_ms
    assert [num for num, _ in found.overhead_ms] == [1, 2, 4, 8]
    assert [ms for _, ms in found.overhead_ms] == pytest.approx([ms for _, ms in TRUE.overhead_ms], abs=0.1)
    assert found.context_ms == pytest.approx(TRUE.context_ms, rel=0.05)
    assert found.prompt_context_ms == pytest.approx(TRUE.prompt_context_ms, rel=0.1)
    assert (found.request_ms, found.verdict_ms) == pytest.approx((TRUE.request_ms, TRUE.verdict_ms))
    assert found.client_ms == pytest.approx(TRUE.client_ms, abs=0.1)


def test_one_session_takes_what_one_took() -> None:
    """Whatever several take: what each of them adds is no part of a pass of one."""
    suite = SimulatedSuite(TRUE)
    found = asyncio.run(times_by_requests(Times(TRUE.pass_ms), suite.ask, lambda: suite.router_s))
    num_seen = 62
    assert found.pass_of(Rows(1, num_works=1, num_seen=num_seen)) == pytest.approx(
        TRUE.pass_of(Rows(1, num_works=1, num_seen=num_seen)), abs=0.1
    )


def test_a_pass_that_the_service_measured_too_slow_is_put_right() -> None:
    suite = SimulatedSuite(TRUE)
    slow = Times(tuple((rows, ms + 5.0) for rows, ms in TRUE.pass_ms), hop_ms=TRUE.hop_ms)
    found = asyncio.run(times_by_requests(slow, suite.ask, lambda: suite.router_s))
    for num in (1, 2, 4, 8):
        rows = Rows(num, num_works=num, num_seen=num * 62)
        assert found.pass_of(rows) == pytest.approx(TRUE.pass_of(rows), abs=0.1)
    assert min(ms for _, ms in found.overhead_ms) >= 0


def test_a_pass_that_the_service_had_no_time_to_measure_is_found() -> None:
    suite = SimulatedSuite(TRUE)
    found = asyncio.run(times_by_requests(Times(((1, 40.0),), hop_ms=TRUE.hop_ms), suite.ask, lambda: suite.router_s))
    for num in (1, 2, 4, 8):
        rows = Rows(num, num_works=num, num_seen=num * 62)
        assert found.pass_of(rows) == pytest.approx(TRUE.pass_of(rows), abs=0.1)


def test_a_step_is_told_from_messages_of_several_tokens() -> None:
    """Of 10 ms each; both decode from 50 to 90 ms. Half of the gaps are none."""
    first = Served(Arrival(0.0, 1, 8, 0), (0.02, 0.04, 0.04, 0.06, 0.06, 0.08, 0.08, 0.09))
    second = Served(Arrival(0.0, 1, 6, 1), (0.05, 0.07, 0.07, 0.09, 0.09, 0.10))
    assert step_ms([first, second]) == pytest.approx(10.0)


def test_outputs_that_came_one_after_another_tell_no_step() -> None:
    arrival = Arrival(0.0, 8, 2, 0)
    for later in ((2.0, 3.0), (3.0, 4.0)):
        with pytest.raises(ValueError, match="2 requests did not decode at the same time"):
            step_ms([Served(arrival, (1.0, 2.0)), Served(arrival, later)])
