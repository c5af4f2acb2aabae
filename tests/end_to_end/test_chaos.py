"""A short run of ``benchmarks.chaos``, and of ``benchmarks.fuzz``, which run for longer by themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.chaos.__main__ import Options, run
from benchmarks.chaos.fleet import FleetShape
from benchmarks.fuzz.__main__ import fuzz


def test_kills_of_any_process_cost_no_token_and_leave_nothing_behind(tiny_model: Path) -> None:
    options = Options(seed=3, num_kills=6, num_clients=4, num_cases=8, mean_pause_s=0.35, shape=FleetShape(num_llms=1))
    report = asyncio.run(run(tiny_model, options, lambda name, line: None))
    assert report.is_good, "\n".join(report.lines())
    assert report.num_kills >= 6
    assert report.outcomes.num_outputs >= options.num_clients


def test_malformed_requests_of_every_kind_end_no_service_and_are_nobodys_defect(tiny_model: Path) -> None:
    found = fuzz(tiny_model, num_examples=60, seed=1)
    assert found.problems == []
    assert len({name.split()[0] for name in found.counts}) == 4
