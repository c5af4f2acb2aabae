"""The fleet's simulation by hand: where times are known, so is when every token comes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.fleet.__main__ import main
from benchmarks.fleet.shape import FleetShape, Speculation
from benchmarks.fleet.simulation import Simulation
from benchmarks.fleet.times import Rows, Times, mean_of, rising
from benchmarks.fleet.workload import Arrival, Outcome, Served, Workload
from benchmarks.load.calibration import speculation_of
from specgrove.client.output import Usage

# A pass takes 10 ms for one row and 1 ms for each further one. Each verdict goes out at once.
TIMES = Times(((1, 10.0), (1001, 1010.0)))
AT_ONCE = FleetShape(stream_interval_ms=0.0)


def token_times_ms(served: Served) -> list[float]:
    return [round(time_s * 1e3, 6) for time_s in served.token_times_s]


def run(
    arrivals: list[Arrival],
    times: Times = TIMES,
    shape: FleetShape = AT_ONCE,
    speculation: Speculation | None = None,
) -> list[list[float]]:
    """Times of the requests' tokens, in order of arrival."""
    served = Simulation(shape, times, speculation).run(arrivals)
    return [token_times_ms(each) for each in sorted(served, key=lambda each: (each.arrival.at_s, each.arrival.prompt))]


def test_one_request_alone_has_a_token_with_each_pass() -> None:
    # The prompt of 5 tokens takes 14 ms.
    assert run([Arrival(0.0, 5, 3, 0)]) == [[14.0, 24.0, 34.0]]


def test_sessions_share_passes_and_a_prompt_delays_those_beside_it() -> None:
    # The second prompt comes within the pass from 10 to 20 ms and shares the next one: 1 + 6 rows.
    assert run([Arrival(0.0, 1, 4, 0), Arrival(0.015, 6, 2, 1)]) == [[10.0, 20.0, 36.0, 47.0], [36.0, 47.0]]


def test_a_long_prompt_is_read_in_chunks_and_others_go_on_between() -> None:
    shape = replace(AT_ONCE, max_num_chunk_tokens=10)
    # 10 tokens; 10 beside the other's prompt of one; then 5 beside its second row.
    found = run([Arrival(0.0, 25, 1, 0), Arrival(0.001, 1, 2, 1)], shape=shape)
    assert found == [[54.0], [39.0, 54.0]]


def test_a_request_waits_for_kv_slots() -> None:
    shape = replace(AT_ONCE, num_slots=6)
    # 1 + 3 slots are taken till 30 ms; the second needs 3.
    assert run([Arrival(0.0, 1, 3, 0), Arrival(0.0, 1, 2, 1)], shape=shape) == [[10.0, 20.0, 30.0], [40.0, 50.0]]
    with pytest.raises(ValueError, match="4 tokens needs more KV slots than the 3"):
        run([Arrival(0.0, 1, 3, 0)], shape=FleetShape(num_slots=3))


def test_replicas_take_the_sessions_by_turns() -> None:
    arrivals = [Arrival(0.0, 1, 2, number) for number in range(2)]
    assert run(arrivals) == [[11.0, 22.0]] * 2
    assert run(arrivals, shape=replace(AT_ONCE, num_llms=2)) == [[10.0, 20.0]] * 2


def test_a_step_with_a_tree_goes_round_by_all_services() -> None:
    times = Times(
        TIMES.pass_ms, hop_ms=1.0, request_ms=2.0, verdict_ms=0.5, level_ms=((1, 3.0),), overhead_ms=((1, 0.25),)
    )
    speculation = Speculation(num_nodes=4, num_levels=2, tokens_per_step=3.0, rows_per_level=1)
    # 2 to the router's end, 1 to the LLM, 10.25 the pass, 1 back, 0.5 at the router: 14.75. Then a hop, two levels, a hop, 0.5, a hop,
    # a pass of 5 rows, a hop, 0.5: 1 + 6 + 1 + 0.5 + 1 + 14.25 + 1 + 0.5.
    assert run([Arrival(0.0, 1, 4, 0)], times, speculation=speculation) == [[14.75, 40.0, 40.0, 40.0]]


def test_a_step_gives_its_mean_number_of_tokens() -> None:
    speculation = Speculation(num_nodes=3, num_levels=3, tokens_per_step=2.3)
    served = Simulation(FleetShape(), TIMES, speculation).run([Arrival(0.0, 1, 4000, 0)])
    steps = len(set(served[0].token_times_s)) - 1
    assert 4000 / steps == pytest.approx(2.3, rel=0.05)


def test_a_router_does_one_thing_at_a_time() -> None:
    times = Times(TIMES.pass_ms, verdict_ms=4.0)
    arrivals = [Arrival(0.0, 1, 1, 0), Arrival(0.0, 1, 1, 1)]
    two_llms = FleetShape(num_llms=2)
    assert run(arrivals, times, two_llms) == [[14.0], [18.0]]
    assert run(arrivals, times, FleetShape(num_routers=2, num_llms=2)) == [[14.0], [14.0]]


def test_who_works_how_much() -> None:
    simulation = Simulation(FleetShape(num_llms=2), TIMES)
    simulation.run([Arrival(0.0, 1, 10, 0)])
    assert simulation.busy.llms == pytest.approx(0.5)
    assert simulation.busy.ssms == 0.0


def test_what_a_replica_can_not_hold_waits_without_end_of_the_queue() -> None:
    """Twice what it can serve: the last one waits longest."""
    workload = Workload(200.0, (1,), (1,))
    served = Simulation(FleetShape(), Times(((1, 10.0), (2, 20.0)))).run(workload.arrivals(1.0))
    assert served[-1].first_token_s > 20 * served[0].first_token_s


def test_arrivals_are_a_function_of_the_seed() -> None:
    workload = Workload(5.0, (10, 20), (30, 40))
    arrivals = workload.arrivals(200.0, seed=3)
    assert arrivals == workload.arrivals(200.0, seed=3) != workload.arrivals(200.0, seed=4)
    assert len(arrivals) == pytest.approx(1000, rel=0.15)
    faster = Workload(10.0, (10, 20), (30, 40)).arrivals(100.0, seed=3)
    assert [(each.prompt, each.output_len, round(each.at_s * 2, 9)) for each in faster] == [
        (each.prompt, each.output_len, round(each.at_s, 9)) for each in arrivals
    ]
    with pytest.raises(ValueError, match="above 0 requests a second"):
        Workload(0.0, (1,), (1,))


def test_outcomes() -> None:
    arrival = Arrival(1.0, 5, 3, 0)
    outcome = Outcome.of([Served(arrival, (1.5, 1.6, 1.8)), Served(arrival, (3.0, 3.0, 3.0))], 1.0, 0.2)
    assert outcome.tokens_per_s == pytest.approx(3.0)
    assert outcome.first_token_ms == pytest.approx((500.0, 2000.0, 2000.0))
    assert outcome.goodput == 0.5


def test_between_measured_points_times_are_in_proportion() -> None:
    times = Times(((2, 10.0), (4, 14.0), (8, 30.0)))
    assert [times.pass_of(Rows(rows)) for rows in (1, 2, 3, 6, 16)] == [10.0, 10.0, 12.0, 22.0, 60.0]
    assert rising([(4, 9.0), (1, 10.0)]) == ((1, 10.0), (4, 10.0))


def test_prompts_rows_may_take_less_and_what_rows_see_counts() -> None:
    times = Times(((1, 10.0), (9, 18.0)), prompt_ms=((1, 10.0), (101, 60.0)), context_ms=100.0, prompt_context_ms=10.0)
    # A chunk of 101 tokens behind 1,000, beside two rows that see 10 tokens each.
    rows = Rows(num_asked=2, num_of_prompts=101, num_works=3, num_seen=20, num_seen_by_prompts=101_000)
    assert times.pass_of(rows) == pytest.approx(60.0 + 2.0 + 2.0 + 1010.0)
    # The first token of a prompt alone, then a row that sees the prompt and one token.
    assert run([Arrival(0.0, 101, 2, 0)], times) == [[60.0, 60.0 + 10.0 + 10.2]]


def test_times_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    for prompt_ms in (None, ((1, 9.0), (64, 50.0))):
        times = Times(((1, 10.0), (8, 20.0)), prompt_ms, hop_ms=0.5, level_ms=((1, 2.0),))
        times.write(path)
        assert Times.read(path) == times
    for content, complaint in (
        ("{", "is no JSON"),
        ("[]", "no object"),
        ("{}", "pass_ms is missing"),
        ('{"pass_ms": [[1, 2]], "hops": 1}', r"unknown keys \['hops'\]"),
        ('{"pass_ms": []}', "rising rows"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=complaint):
            Times.read(path)


def test_the_program_prints_a_line_for_each_fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps({"pass_ms": [[1, 10.0], [64, 80.0]], "level_ms": [[1, 1.0]], "hop_ms": 0.5}))
    command = ["--times", str(path), "--per-day", "50000", "--llms", "1", "2", "--duration-s", "20"]
    assert main([*command, "--tree", "4", "2", "2.0"]) == 0
    printed = capsys.readouterr().out
    assert "1 LLM replicas" in printed
    assert "2 LLM replicas" in printed
    with pytest.raises(SystemExit, match="2 levels gives 1 to 3 tokens"):
        main([*command, "--tree", "4", "2", "5.0"])


def test_trees_are_told_from_usage() -> None:
    usage = Usage(10, 90, 40, (), (40, 40, 20), (), 160, 1.0, 1.0, 1.0, 1.0, 0, 0)
    found = speculation_of([usage])
    assert found is not None
    assert (found.num_nodes, found.num_levels) == (4, 2)
    assert found.tokens_per_step == pytest.approx(2.25)
    seldom = Usage(10, 41, 40, (), (2,), (), 2, 1.0, 1.0, 1.0, 1.0, 0, 0)
    assert speculation_of([seldom]) is None


def test_times_of_several_moments_are_their_mean() -> None:
    one = Times(((1, 10.0), (4, 16.0)), prompt_ms=((8, 20.0),), hop_ms=1.0, verdict_ms=0.5)
    other = Times(((1, 20.0), (2, 22.0), (4, 30.0)), hop_ms=2.0)
    found = mean_of([one, other])
    assert found.pass_ms == ((1, 15.0), (2, 17.0), (4, 23.0))
    assert found.prompt_ms == ((8, 20.0),)  # the other one has no such curve
    assert (found.hop_ms, found.verdict_ms, found.overhead_ms) == (1.5, 0.25, ((1, 0.0),))
    assert mean_of([one]) == one
    with pytest.raises(ValueError, match="no times"):
        mean_of([])
