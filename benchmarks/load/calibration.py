"""What the fleet's simulation is fed with: times measured on a suite, and what its trees were like. See ``benchmarks.fleet``."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import grpc

from benchmarks.fleet.simulation import FleetShape, Simulation, Speculation
from benchmarks.fleet.times import Rows, Times, rising
from benchmarks.fleet.workload import Arrival
from benchmarks.load.asking import LONG, LONG_LEN, SHORT, SHORT_LEN, Asking
from benchmarks.processor_time import cpu_s
from specgrove.client.output import Usage
from specgrove.suite.processes import Suite
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc

_NUM_ROUND_TRIPS = 100
_NUM_CALIBRATED = 60  # tokens
_PROMPT_LENS = (32, 128, 256)
_NUM_PROMPTS = 3
_NUM_AT_ONCE = 8


async def measured_times(suite: Suite, asking: Asking) -> Times:
    """What the simulation is fed with: by the services when they are idle, and by requests of one client and of several."""
    async with grpc.aio.insecure_channel(suite.address_of("llm_service")) as channel:
        llm = llm_pb2_grpc.LlmServiceStub(channel)
        warmup = await llm.Warmup(llm_pb2.LlmServiceWarmupRequest())
        trips_ms = []
        for _ in range(_NUM_ROUND_TRIPS):
            started_s = time.perf_counter()
            await llm.GetLoad(llm_pb2.LlmServiceGetLoadRequest())
            trips_ms.append((time.perf_counter() - started_s) * 1e3)
    async with grpc.aio.insecure_channel(suite.address_of("ssm_service")) as channel:
        levels = await ssm_pb2_grpc.SsmServiceStub(channel).Warmup(ssm_pb2.SsmServiceWarmupRequest())
    passes = rising((each.num_rows, each.pass_ms) for each in warmup.pass_times)
    level_ms = rising((each.num_rows, each.pass_ms) for ssm in levels.ssms for each in ssm.pass_times) or ((1, 0.0),)
    bare = Times(passes, level_ms=level_ms, hop_ms=statistics.median(trips_ms) / 2)
    router_pid = suite.pid("router")
    assert router_pid is not None, "the router is not there"
    router_s = cpu_s(router_pid)
    one_ms = statistics.median([await _gap_ms(asking, SHORT, 1) for _ in range(3)])
    verdict_ms = (cpu_s(router_pid) - router_s) * 1e3 / (3 * _NUM_CALIBRATED)
    several_ms = await _gap_ms(asking, SHORT, _NUM_AT_ONCE)
    long_ms = await _gap_ms(asking, LONG, 1)
    seen = SHORT_LEN + _NUM_CALIBRATED // 2
    context_ms = max(0.0, (long_ms - one_ms) / (LONG_LEN - SHORT_LEN) * 1e3)
    bare = replace(
        bare, context_ms=context_ms, verdict_ms=verdict_ms, request_ms=verdict_ms
    )  # of the order of a verdict
    pass_overhead = max(0.0, one_ms - bare.pass_of(Rows(1, num_seen=seen)))
    rest_ms = several_ms - pass_overhead - bare.pass_of(Rows(_NUM_AT_ONCE, num_seen=_NUM_AT_ONCE * seen))
    work_overhead = max(0.0, rest_ms / _NUM_AT_ONCE)
    around_ms = pass_overhead + work_overhead + 2 * bare.hop_ms + bare.request_ms + bare.verdict_ms
    prompt_ms = rising(
        [(length, max(await _first_token_ms(asking, length) - around_ms, 0.1)) for length in _PROMPT_LENS]
    )
    times = replace(bare, pass_overhead_ms=pass_overhead, work_overhead_ms=work_overhead, prompt_ms=prompt_ms)
    return replace(times, prompt_context_ms=await _prompt_context_ms(asking, times))


async def _prompt_context_ms(asking: Asking, times: Times) -> float:
    """From a long prompt, which is read in chunks: what is not explained by their rows."""
    found_ms = await _first_token_ms(asking, LONG_LEN)
    [served] = Simulation(FleetShape(), times).run([Arrival(0.0, LONG_LEN, 1, LONG)])
    chunk = FleetShape().max_num_chunk_tokens
    num_seen = sum(min(chunk, LONG_LEN - start) * start for start in range(0, LONG_LEN, chunk))
    return max(0.0, (found_ms - served.first_token_s * 1e3) / num_seen * 1e3)


async def _first_token_ms(asking: Asking, length: int) -> float:
    """Of a prompt of so many tokens that comes alone, the median."""
    found = []
    for _ in range(_NUM_PROMPTS):
        [served] = await asking.open_loop([Arrival(0.0, length, 1, LONG)])
        found.append(served.first_token_s * 1e3)
    return statistics.median(found)


async def _gap_ms(asking: Asking, prompt: int, num_at_once: int) -> float:
    """Between tokens, the median, of so many outputs at once."""
    length = (SHORT_LEN, LONG_LEN)[prompt]
    arrivals = [Arrival(0.0, length, _NUM_CALIBRATED, prompt)] * num_at_once
    served = await asking.open_loop(arrivals)
    return statistics.median(gap for each in served for gap in each.gaps_s) * 1e3


def speculation_of(usages: list[Usage]) -> Speculation | None:
    """What trees were like; ``None`` where there were hardly any."""
    num_steps = sum(usage.num_verify_steps for usage in usages)
    num_trees = sum(usage.drafted_by_depth[0] for usage in usages if usage.drafted_by_depth)
    if num_steps == 0 or num_trees < num_steps / 2:
        return None
    num_nodes = sum(usage.num_drafted_nodes for usage in usages) / num_trees
    levels = sum(sum(usage.drafted_by_depth) for usage in usages) / num_trees
    tokens = sum(usage.num_decided_tokens for usage in usages) / num_steps
    num_levels = max(1, round(levels))
    return Speculation(max(1, round(num_nodes)), num_levels, min(tokens, num_levels + 1.0))
