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

from llm_service.config import LlmServiceConfig
from specgrove.models.parallel_layout import ParallelLayout
from specgrove.owned_folders import temporary_folder
from specgrove.runtime.devices import choose_device
from specgrove.runtime.parallel_runner import RankLinks, link_ranks
from specgrove.runtime.rank_liveness import LOOPBACK, Door, LivenessMonitor, watch_rank_0


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


def is_rank(environment: Mapping[str, str]) -> bool:
    """Whether ``torchrun`` started this process."""
    return "RANK" in environment and "WORLD_SIZE" in environment


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
    command = ("-m", "specgrove.supervised", str(os.getpid()), "llm_service", *argv)
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
    layout = config.layout
    num_ranks, rank = int(environment["WORLD_SIZE"]), int(environment["RANK"])
    num_local = int(environment.get("LOCAL_WORLD_SIZE", num_ranks))
    if num_ranks != layout.num_ranks:
        raise ValueError(
            f"torchrun started {num_ranks} ranks, tensor-parallel {layout.tensor_size} x {layout.num_stages} stages"
            f" need {layout.num_ranks}"
        )
    local_rank = int(environment.get("LOCAL_RANK", rank % num_local))
    device = choose_device(config.device, local_rank)
    # Ranks wait for work as long as there is none; whether the others live is found out in another way.
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=timedelta(days=365))
    links = link_ranks(layout)
    liveness = _watch(config, environment, is_one_machine=num_local == num_ranks)
    return Rank(rank, num_local, local_rank, device, links, liveness)


def _watch(config: LlmServiceConfig, environment: Mapping[str, str], *, is_one_machine: bool) -> LivenessMonitor | None:
    host = LOOPBACK if is_one_machine else environment["MASTER_ADDR"]
    monitor = None
    door: list[Door | None] = [None]
    if dist.get_rank() == 0:
        monitor = LivenessMonitor(config.layout.num_ranks, config.layout.describe, host)
        door = [monitor.door]
    dist.broadcast_object_list(door, src=0)
    if monitor is not None:
        monitor.start()
    else:
        assert door[0] is not None
        watch_rank_0(host, door[0], dist.get_rank())
        # They end when rank 0 does, which drains first.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
    return monitor
