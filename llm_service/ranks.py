"""The processes of one LLM service: started by ``torchrun``, linked to each other, and ended together.

``__main__`` calls ``launch`` in the process that the user started, ``join`` in every rank. Rank 0 serves gRPC, the others follow it.
Invariant: when one rank is gone all are, within seconds; whoever started the service then starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous

from llm_service.config import LlmServiceConfig
from llm_service.network_interface import interface_with
from specgrove.machine.owned_folders import temporary_folder
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.runtime.devices import choose_device
from specgrove.runtime.parallel_runner import RankLinks, link_ranks
from specgrove.runtime.rank_liveness import LOOPBACK, Door, LivenessMonitor, is_loopback, watch_rank_0

# Ranks of other machines may be started minutes later. Who waits longer ends, to be started again with the others.
_MEET_TIMEOUT = timedelta(minutes=10)
_FOR_EVER = timedelta(days=365)
_DOOR, _ADDRESS = "specgrove/door", "specgrove/address"  # what rank 0 tells the others


@dataclass(frozen=True, slots=True)
class Rank:
    """This process among the ranks."""

    rank: int
    num_local: int
    """Ranks on this machine."""
    local_rank: int
    device: torch.device
    links: RankLinks
    liveness: LivenessMonitor | None  # of rank 0

    @property
    def is_first_of_machine(self) -> bool:
        """Whether it is the one that downloads and converts."""
        return self.local_rank == 0

    @property
    def sharing_memory(self) -> range:
        """The ranks that take of the memory that this one takes of: all of the machine, or on a GPU this one alone."""
        if self.device.type != "cpu":
            return range(self.rank, self.rank + 1)
        return range(self.rank - self.local_rank, self.rank - self.local_rank + self.num_local)


def launch(layout: ParallelLayout, argv: Sequence[str], drain_timeout_s: float) -> int:
    """Starts all ranks on this machine as ``torchrun`` does, with the same arguments; returns the exit code when they have ended."""
    with temporary_folder("specgrove-ranks-") as folder:  # else torch leaves one behind each time
        return _launch(layout, argv, drain_timeout_s, folder)


def _launch(layout: ParallelLayout, argv: Sequence[str], drain_timeout_s: float, log_folder: Path) -> int:
    # The ranks say themselves what is wrong; the launcher's own report would bury it.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else the launcher sets it too, and says so
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=layout.num_ranks,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,  # the supervisor restarts the whole
        monitor_interval=0.1,
        shutdown_timeout=int(drain_timeout_s) + 10,
        logs_specs=DefaultLogsSpecs(log_dir=str(log_folder)),
    )
    # The ranks die with this process.
    command = ("-m", "specgrove.suite.supervised", str(os.getpid()), "llm_service", *argv)
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError:
        return 1
    except SignalException as stop:
        return 128 + int(stop.sigval) if stop.sigval not in (signal.SIGTERM, signal.SIGINT) else 0
    return 0


def join(config: LlmServiceConfig, environment: Mapping[str, str]) -> Rank:
    """Meets the other ranks.

    Raises ``ValueError`` when ``torchrun`` started another number of them, or there is no GPU for this one.
    """
    layout = config.demand.layout
    num_ranks, rank = int(environment["WORLD_SIZE"]), int(environment["RANK"])
    num_local = int(environment.get("LOCAL_WORLD_SIZE", num_ranks))
    if num_ranks != layout.num_ranks:
        raise ValueError(
            f"torchrun started {num_ranks} ranks, tensor-parallel {layout.tensor_size} x {layout.num_stages} stages"
            f" need {layout.num_ranks}"
        )
    local_rank = int(environment.get("LOCAL_RANK", rank % num_local))
    device = choose_device(config.demand.device, local_rank)
    liveness = _meet(layout, environment, rank, is_one_machine=num_local == num_ranks, is_gpu=device.type == "cuda")
    return Rank(rank, num_local, local_rank, device, link_ranks(layout), liveness)


def _meet(
    layout: ParallelLayout, environment: Mapping[str, str], rank: int, *, is_one_machine: bool, is_gpu: bool
) -> LivenessMonitor | None:
    """Connects the ranks: first so that each notices when another is gone, then for computing. Returns rank 0's monitor."""
    store, _, num_ranks = next(rendezvous("env://", timeout=_MEET_TIMEOUT))
    host = LOOPBACK if is_one_machine else environment["MASTER_ADDR"]
    monitor = None
    if rank == 0:
        monitor = LivenessMonitor(num_ranks, layout.describe, host)
        store.set(_DOOR, monitor.door.to_bytes())
        address = monitor.start()
        store.set(_ADDRESS, address)
    else:
        address = watch_rank_0(host, Door.from_bytes(store.get(_DOOR)), rank)
        if not is_one_machine and is_loopback(address):
            address = store.get(_ADDRESS).decode()  # a neighbour of rank 0, which others know by another address
        # They end when rank 0 does, which drains first.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    if not is_one_machine and (interface := interface_with(address)) is not None:
        # Else Gloo listens at whatever address this machine's name has, often a loopback one.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    # Ranks wait for work as long as there is none.
    store.set_timeout(_FOR_EVER)
    backend = "cpu:gloo,cuda:nccl" if is_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=_FOR_EVER)
    return monitor
