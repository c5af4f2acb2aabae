"""A simulated LLM replica does with its work what the service does: by hand, in virtual time."""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks.fleet.shape import FleetShape, Speculation
from benchmarks.fleet.times import Rows, Times
from benchmarks.fleet.workload import Arrival
from llm_service.config import VerifierConfig
from specgrove.settings import parse_settings
from tests.benchmarks.test_fleet import AT_ONCE, TIMES, run


def test_defaults_are_the_services_own() -> None:
    shape = FleetShape()
    settings = parse_settings(argparse.ArgumentParser(), "llm", ["--model", "m"])
    assert shape.stream_interval_ms == settings.stream_interval_ms
    assert shape.max_num_chunk_tokens == settings.max_chunk_tokens
    assert shape.max_num_tree_rows == settings.max_tree_rows
    assert VerifierConfig(100).max_num_chunk_tokens == shape.max_num_chunk_tokens


def test_prompts_share_the_rows_of_a_pass() -> None:
    shape = replace(AT_ONCE, max_num_chunk_tokens=8)
    # 4 rows are shared evenly, the first gets the rest: 8 while it is alone, then 6 beside 2 and the row that is asked, then 6 and its own.
    found = run([Arrival(0.0, 21, 1, 0), Arrival(0.001, 3, 1, 1)], shape=shape)
    assert found == [[17.0 + 18.0 + 16.0], [17.0 + 18.0]]


def test_a_prompt_that_is_half_read_keeps_its_place_before_those_that_come_later() -> None:
    shape = replace(AT_ONCE, max_num_chunk_tokens=8)
    # 8; 6 beside 2; 2 of the first and its last row, beside 6; 2 and the last row of the second.
    found = run([Arrival(0.0, 17, 1, 0), Arrival(0.001, 11, 1, 1)], shape=shape)
    assert found == [[17.0 + 17.0 + 18.0], [17.0 + 17.0 + 18.0 + 12.0]]


def test_tokens_of_steps_that_end_soon_after_one_another_come_together() -> None:
    shape = replace(AT_ONCE, stream_interval_ms=20.0)
    assert run([Arrival(0.0, 1, 6, 0)], shape=shape) == [[10.0, 30.0, 30.0, 50.0, 50.0, 60.0]]
    assert run([Arrival(0.0, 1, 4, 0)], shape=replace(shape, stream_interval_ms=10.0)) == [[10.0, 20.0, 30.0, 40.0]]


def test_tokens_that_wait_go_out_before_the_passes_of_a_prompt() -> None:
    shape = replace(AT_ONCE, stream_interval_ms=1000.0)
    # At 30 ms the second prompt, which has come at 25, begins: 10 rows beside one take 20 ms.
    found = run([Arrival(0.0, 1, 5, 0), Arrival(0.025, 10, 1, 1)], shape=shape)
    assert found == [[10.0, 30.0, 30.0, 60.0, 60.0], [50.0]]


def test_a_verdict_is_handled_once_for_all_its_tokens() -> None:
    times = Times(TIMES.pass_ms, verdict_ms=1.0)
    shape = replace(AT_ONCE, stream_interval_ms=20.0)
    assert run([Arrival(0.0, 1, 3, 0)], times, shape) == [[11.0, 31.0, 31.0]]


def test_after_so_many_steps_the_router_is_waited_for_and_a_pass_begins_without_the_session() -> None:
    shape = replace(AT_ONCE, max_num_steps_ahead=2)
    # 1 to get there; after two passes a hop, 2 at the router, a hop.
    times = Times(TIMES.pass_ms, hop_ms=1.0, verdict_ms=2.0)
    assert run([Arrival(0.0, 1, 3, 0)], times, shape) == [[14.0, 24.0, 38.0]]
    # The pass from 11 to 22 is of both and makes the first one's second step. It is back at 24: from 22 to 32 there is a pass without it.
    times = Times(TIMES.pass_ms, hop_ms=1.0)
    both = run([Arrival(0.0, 1, 3, 0), Arrival(0.002, 1, 3, 1)], times, shape)
    assert both == [[12.0, 23.0, 43.0], [23.0, 33.0, 53.0]]


def test_a_pass_ahead_makes_a_new_prompt_wait_for_two() -> None:
    arrivals = [Arrival(0.0, 1, 9, 0), Arrival(0.032, 1, 1, 1)]
    assert run(arrivals)[1] == [51.0]
    # The pass from 40 to 50 has begun before.
    assert run(arrivals, shape=replace(AT_ONCE, has_passes_ahead=True))[1] == [61.0]


def test_no_pass_begins_ahead_of_a_last_step_or_beside_a_prompt_or_where_a_session_would_wait() -> None:
    ahead = replace(AT_ONCE, has_passes_ahead=True)
    # The pass from 10 to 20 is the first one's last: who comes meanwhile has the next.
    assert run([Arrival(0.0, 1, 2, 0), Arrival(0.012, 1, 1, 1)], shape=ahead)[1] == [30.0]
    assert run([Arrival(0.0, 1, 9, 0), Arrival(0.012, 1, 1, 1)], shape=ahead)[1] == [41.0]
    # The first part of a prompt is followed by the next, with whoever has come.
    chunks = replace(ahead, max_num_chunk_tokens=10)
    arrivals = [Arrival(0.0, 25, 1, 0), Arrival(0.001, 1, 2, 1)]
    assert run(arrivals, shape=chunks) == run(arrivals, shape=replace(chunks, has_passes_ahead=False))
    # Where one of two waits for its tree there is none.
    speculation = Speculation(num_nodes=2, num_levels=1, tokens_per_step=2.0)
    arrivals = [Arrival(0.0, 1, 9, 0), Arrival(0.005, 1, 9, 1)]
    assert run(arrivals, shape=ahead, speculation=speculation) == run(arrivals, speculation=speculation)


def test_a_new_session_goes_where_the_fewest_tokens_are() -> None:
    # Both replicas have one session; that with the short prompt gets the third, and is through with it first.
    arrivals = [Arrival(0.0, 100, 1, 0), Arrival(0.0, 1, 4, 1), Arrival(0.001, 1, 1, 2)]
    assert run(arrivals, shape=replace(AT_ONCE, num_llms=2))[2] == [21.0]


def test_a_row_beside_a_prompt_costs_what_a_prompts_row_does_where_the_pass_is_bound_by_arithmetic() -> None:
    # Few rows are hidden behind the weights; many are not.
    times = Times(((1, 10.0), (5, 10.4)), prompt_ms=((1, 10.0), (5, 10.4), (105, 210.4)))
    alone = times.pass_of(Rows(num_of_prompts=50, num_works=1))
    beside = times.pass_of(Rows(num_asked=4, num_of_prompts=50, num_works=5))
    assert round(beside - alone, 6) == 8.0
