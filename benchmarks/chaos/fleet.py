"""Several routers, LLM services and SSM services as real processes, joined by links that can be made bad. Used by ``chaos`` and ``soak``.

Invariant: whatever dies is started again at the same address; nothing outlives the fleet.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import grpc

from benchmarks.chaos.links import Link
from specgrove.addresses import grpc_target
from specgrove.client import AsyncClient
from specgrove.suite.readiness import is_serving
from specgrove.suite.supervisor import LogLine, ProcessSpec, Supervisor
from specgrove.v1 import llm_pb2, llm_pb2_grpc, ssm_pb2, ssm_pb2_grpc, token_tree_pb2
from tests.addresses import free_address

_DRAIN_S = 2.0
_END_S = 10.0
# Processes die far more often here than anybody's should: the next incarnation comes soon.
_MAX_BACKOFF_S = 1.0
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class FleetShape:
    """How many of each."""

    num_routers: int = 2
    num_llms: int = 2
    num_ssms: int = 1
    max_num_requests: int = 12
    max_num_queued: int = 12
    num_kv_slots: int = 16384

    @property
    def routers(self) -> tuple[str, ...]:
        """Names."""
        return tuple(f"router-{number}" for number in range(1, self.num_routers + 1))

    @property
    def services(self) -> tuple[str, ...]:
        """Names of LLM and SSM services."""
        llms = (f"llm-{number}" for number in range(1, self.num_llms + 1))
        ssms = (f"ssm-{number}" for number in range(1, self.num_ssms + 1))
        return (*llms, *ssms)


class Fleet:
    """Use it in ``async with``."""

    def __init__(self, model: Path, shape: FleetShape, log_line: LogLine) -> None:
        """``model`` is the LLM's folder, and that of an SSM which drafts for it."""
        self.shape = shape
        self._model = model
        self._log_line = log_line
        self.addresses = {name: free_address() for name in (*shape.routers, *shape.services)}
        # A way of its own for each pair, so that a service can be lost to one router and not to the other.
        self.links = {
            (router, service): Link(self.addresses[service]) for router in shape.routers for service in shape.services
        } | {("clients", router): Link(self.addresses[router]) for router in shape.routers}
        self._supervisor: Supervisor

    @property
    def names(self) -> tuple[str, ...]:
        """Of all processes."""
        return (*self.shape.routers, *self.shape.services)

    @property
    def front_addresses(self) -> tuple[str, ...]:
        """Where clients find the routers."""
        return tuple(self.links["clients", router].address for router in self.shape.routers)

    def pid(self, name: str) -> int | None:
        """None between a process's end and its restart."""
        return self._supervisor.pid(name)

    def num_restarts(self) -> int:
        """Of all."""
        return sum(self._supervisor.num_restarts(name) for name in self.names)

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns when all serve. Raises ``TimeoutError``."""
        until_s = time.monotonic() + timeout_s
        waiting = list(self.names)
        while waiting:
            self._supervisor.check()
            ready = [name for name in waiting if await asyncio.to_thread(is_serving, self.addresses[name])]
            waiting = [name for name in waiting if name not in ready]
            if waiting and time.monotonic() > until_s:
                raise TimeoutError(f"{', '.join(waiting)} not ready after {timeout_s:g} s")
            await asyncio.sleep(_LOOK_S)

    async def loads(self) -> dict[str, token_tree_pb2.Load]:
        """What LLM and SSM services are busy with."""
        found = {}
        for name in self.shape.services:
            async with grpc.aio.insecure_channel(grpc_target(self.addresses[name])) as channel:
                if name.startswith("llm"):
                    llm = llm_pb2_grpc.LlmServiceStub(channel)
                    found[name] = (await llm.GetLoad(llm_pb2.LlmServiceGetLoadRequest(), timeout=10.0)).load
                else:
                    ssm = ssm_pb2_grpc.SsmServiceStub(channel)
                    found[name] = (await ssm.GetLoad(ssm_pb2.SsmServiceGetLoadRequest(), timeout=10.0)).load
        return found

    async def num_requests(self) -> dict[str, int]:
        """Requests that run or wait, by router."""
        found = {}
        for name in self.shape.routers:
            async with AsyncClient(self.addresses[name], retry=None) as client:
                stats = await client.stats()
            found[name] = stats.num_running_requests + stats.num_waiting_requests
        return found

    async def __aenter__(self) -> Fleet:
        for link in self.links.values():
            await link.start()
        self._supervisor = Supervisor(self._specs(), self._log_line, _DRAIN_S + _END_S, max_backoff_s=_MAX_BACKOFF_S)
        self._supervisor.start()
        self._supervisor.expect_up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._supervisor.stop)
        for link in self.links.values():
            await link.close()

    def _specs(self) -> tuple[ProcessSpec, ...]:
        usual = ("--drain-timeout-s", f"{_DRAIN_S:g}")
        modelled = (*usual, "--dtype", "float32", "--threads", "1")
        itself = f"{self._model},name=itself,mode=beam,width=2"
        specs = []
        for name in self.shape.services:
            address = ("--address", self.addresses[name])
            if name.startswith("llm"):
                # Prompts and replays are read in several passes.
                llm = (
                    "--model",
                    str(self._model),
                    "--kv-slots",
                    str(self.shape.num_kv_slots),
                    "--max-chunk-tokens",
                    "32",
                )
                specs.append(ProcessSpec(name, "llm_service", (*address, *modelled, *llm)))
            else:
                ssm = ("--llm-model", str(self._model), "--ssm", "lookup,corpus=50000", "--ssm", itself)
                specs.append(ProcessSpec(name, "ssm_service", (*address, *modelled, *ssm)))
        for router in self.shape.routers:
            # Whether drafting pays is a question of times; here trees are wanted whatever they cost.
            arguments = [
                "--address",
                self.addresses[router],
                *usual,
                "--tree-policy",
                "static",
                "--max-tree-nodes",
                "6",
            ]
            arguments += ["--max-requests", str(self.shape.max_num_requests)]
            arguments += ["--max-queued", str(self.shape.max_num_queued), "--reader-timeout-s", "60"]
            for service in self.shape.services:
                flag = "--llm" if service.startswith("llm") else "--ssm"
                arguments += [flag, self.links[router, service].address]
            specs.append(ProcessSpec(router, "router", tuple(arguments)))
        return tuple(specs)
