"""What the fleet's simulation is fed with: times measured on a suite, and what its trees were like. See ``benchmarks.fleet``."""

from __future__ import annotations

import statistics
import time

import grpc

from benchmarks.fleet.calibration import times_by_requests
from benchmarks.fleet.shape import Speculation
from benchmarks.fleet.times import Times, rising
from benchmarks.fleet.workload import Arrival, Served
from benchmarks.load.over_grpc import OverGrpc
from benchmarks.processor_time import cpu_s
from specgrove.addresses import grpc_target
from specgrove.client.output import Usage
from specgrove.suite.processes import Suite
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc

_NUM_ROUND_TRIPS = 100


async def measured_times(suite: Suite, asking: OverGrpc) -> Times:
    """What the simulation is fed with: by the services when they are idle, and by requests of one client and of several."""
    async with grpc.aio.insecure_channel(grpc_target(suite.address_of("llm_service"))) as channel:
        llm = llm_pb2_grpc.LlmServiceStub(channel)
        warmup = await llm.Warmup(llm_pb2.LlmServiceWarmupRequest())
        trips_ms = []
        for _ in range(_NUM_ROUND_TRIPS):
            started_s = time.perf_counter()
            await llm.GetLoad(llm_pb2.LlmServiceGetLoadRequest())
            trips_ms.append((time.perf_counter() - started_s) * 1e3)
    async with grpc.aio.insecure_channel(grpc_target(suite.address_of("ssm_service"))) as channel:
        levels = await ssm_pb2_grpc.SsmServiceStub(channel).Warmup(ssm_pb2.SsmServiceWarmupRequest())
    passes = rising((each.num_rows, each.pass_ms) for each in warmup.pass_times)
    level_ms = rising((each.num_rows, each.pass_ms) for ssm in levels.ssms for each in ssm.pass_times) or ((1, 0.0),)
    bare = Times(passes, level_ms=level_ms, hop_ms=statistics.median(trips_ms) / 2)
    router_pid = suite.pid("router")
    assert router_pid is not None, "the router is not there"

    async def ask(arrivals: list[Arrival]) -> tuple[list[Served], list[Usage]]:
        return await asking.open_loop(arrivals), asking.usages

    return await times_by_requests(bare, ask, lambda: cpu_s(router_pid))


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
