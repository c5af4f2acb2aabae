"""The services behind the router, as they are now: who is there, how often they were lost, and what keeps them busy.

Owned by the app. Services are asked for their load when somebody wants to know, together and once in a while at most: a gateway may
ask many times a second. Invariant: asking never fails; who doesn't answer in time has no load.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from router.llm_replicas import LlmPool
from router.service_replica import ServiceReplica
from router.ssm_replicas import SsmPool
from specgrove.errors import UnavailableError
from specgrove.serving.replica_channel import closed_is_away
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.telemetry.metrics import Kind, Metric, Reading
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc, token_tree_pb2

if TYPE_CHECKING:
    from specgrove.v1.llm_pb2_grpc import LlmServiceAsyncStub
    from specgrove.v1.ssm_pb2_grpc import SsmServiceAsyncStub

_MAX_AGE_S = 0.25
_TIMEOUT_S = 1.0
_LLM, _SSM = "llm_service", "ssm_service"

UP = Metric(
    "specgrove_router_replica_up",
    Kind.GAUGE,
    "1 while the router is connected to a service, else 0.",
    labels=("service", "address"),
)
LOSSES = Metric(
    "specgrove_router_replica_losses_total",
    Kind.COUNTER,
    "Times that the connection to a service was lost: it ended, was restarted, or was cut off.",
    labels=("service", "address"),
)
SESSIONS = Metric(
    "specgrove_router_replica_sessions",
    Kind.GAUGE,
    "This router's requests on a service.",
    labels=("service", "address"),
)
DRAINING = Metric(
    "specgrove_router_replica_draining",
    Kind.GAUGE,
    "1 while a service is there and takes no new requests, because it is not ready or drains, else 0.",
    labels=("service", "address"),
)
ITEMS = Metric(
    "specgrove_router_replica_items_total",
    Kind.COUNTER,
    "Verifications or drafts that the router has asked a service for: each replica's share of the work.",
    labels=("service", "address"),
)
KV_USAGE = Metric(
    "specgrove_router_kv_cache_usage_ratio",
    Kind.GAUGE,
    "Share of the KV slots in use, from 0 to 1, of the LLM services that answer, together.",
    vllm_name="vllm:kv_cache_usage_perc",
)
CACHE_INFO = Metric(
    "specgrove_router_kv_cache_info",
    Kind.INFO,
    "1; its labels say how many KV slots the LLM services that answer have together (num_gpu_blocks), each of one token (block_size).",
    labels=("block_size", "num_gpu_blocks"),
    vllm_name="vllm:cache_config_info",
)


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One service. ``load`` is None where it is away or doesn't answer."""

    service: str
    address: str
    is_connected: bool
    num_losses: int
    load: token_tree_pb2.Load | None
    is_draining: bool
    num_requests: int
    num_items: int


_BY_REPLICA: dict[Metric, Callable[[ReplicaState], float]] = {
    UP: lambda state: float(state.is_connected),
    DRAINING: lambda state: float(state.is_draining),
    LOSSES: lambda state: state.num_losses,
    SESSIONS: lambda state: state.num_requests,
    ITEMS: lambda state: state.num_items,
}


class ReplicaStats:
    """One per router."""

    def __init__(self, llms: LlmPool, ssms: SsmPool) -> None:
        self._llms = llms
        self._ssms = ssms
        self._loads: dict[str, token_tree_pb2.Load] = {}  # by address
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()

    async def refresh(self) -> None:
        """Asks for the loads, unless they were asked for a moment ago."""
        async with self._asking:
            if time.monotonic() - self._asked_s < _MAX_AGE_S:
                return
            llms = [_load_of(replica.client, _ask_llm) for replica in self._llms.replicas]
            ssms = [_load_of(replica.client, _ask_ssm) for replica in self._ssms.replicas]
            found = await asyncio.gather(*llms, *ssms)
            self._loads = {address: load for address, load in found if load is not None}
            self._asked_s = time.monotonic()

    def states(self) -> list[ReplicaState]:
        """All services, with their loads of the last ``refresh``."""
        return [
            *(self._state(_LLM, replica) for replica in self._llms.replicas),
            *(self._state(_SSM, replica) for replica in self._ssms.replicas),
        ]

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        states = self.states()
        for metric, value_of in _BY_REPLICA.items():
            yield Reading(metric, {(state.service, state.address): value_of(state) for state in states})
        loads = [state.load for state in states if state.service == _LLM and state.load is not None]
        if num_slots := sum(load.num_slots for load in loads):
            yield Reading(KV_USAGE, 1 - sum(load.num_free_slots for load in loads) / num_slots)
            yield Reading(CACHE_INFO, {("1", str(num_slots)): 1})

    def _state(self, service: str, replica: ServiceReplica[Any, Any]) -> ReplicaState:
        client, is_connected = replica.client, replica.client.connected.is_set()
        return ReplicaState(
            service,
            client.address,
            is_connected,
            client.num_losses,
            self._loads.get(client.address) if is_connected else None,
            is_draining=is_connected and not replica.takes_sessions,
            num_requests=replica.num_sessions,
            num_items=client.num_items,
        )


async def _load_of(
    client: WorkStreamClient[Any, Any], ask: Callable[[grpc.aio.Channel], Awaitable[token_tree_pb2.Load]]
) -> tuple[str, token_tree_pb2.Load | None]:
    if client.connected.is_set():
        with contextlib.suppress(grpc.aio.AioRpcError, UnavailableError), closed_is_away():
            return client.address, await ask(client.channel)
    return client.address, None


async def _ask_llm(channel: grpc.aio.Channel) -> token_tree_pb2.Load:
    stub: LlmServiceAsyncStub = llm_pb2_grpc.LlmServiceStub(channel)
    return (await stub.GetLoad(llm_pb2.LlmServiceGetLoadRequest(), timeout=_TIMEOUT_S)).load


async def _ask_ssm(channel: grpc.aio.Channel) -> token_tree_pb2.Load:
    stub: SsmServiceAsyncStub = ssm_pb2_grpc.SsmServiceStub(channel)
    return (await stub.GetLoad(ssm_pb2.SsmServiceGetLoadRequest(), timeout=_TIMEOUT_S)).load
