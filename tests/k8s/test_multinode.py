"""The overlay gpu-multinode: what its command line says of the group, and that it starts ranks of two nodes that end together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from llm_service.arguments import parse_arguments
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.settings import rules
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.addresses import free_address
from tests.k8s.manifests import Rendered, Workload, rendered
from tests.waiting import LIMIT_S, wait_until

GROUP_SIZE = 2


@pytest.fixture(scope="module")
def suite() -> Rendered:
    return rendered("gpu-multinode")


@pytest.fixture(scope="module")
def ranks(suite: Rendered) -> dict[str, Workload]:
    """``leader`` and ``worker``."""
    return {workload.labels["specgrove.dev/rank"]: workload for workload in suite.workloads if workload.is_rank}


def settings(suite: Rendered) -> dict[str, Any]:
    (config,) = suite.of_kind("ConfigMap")
    return yaml.safe_load(config["data"]["suite.yaml"])  # type: ignore[no-any-return]


def seconds_of(command: list[str], flag: str) -> int:
    (value,) = [word.rpartition("=")[2] for word in command if word.startswith(f"--{flag}=")]
    return int(value)


def test_tensor_parallel_is_a_node_and_pipeline_parallel_the_group(suite: Rendered, ranks: dict[str, Workload]) -> None:
    llm = settings(suite)["llm"]
    group = suite.named("LeaderWorkerSet", "llm-nodes")["spec"]["leaderWorkerTemplate"]
    assert group["size"] == llm["pipeline-parallel"] == GROUP_SIZE
    assert group["restartPolicy"] == "RecreateGroupOnPodRestart"
    assert ranks.keys() == {"leader", "worker"}
    for workload in ranks.values():
        assert workload.main["resources"]["limits"]["nvidia.com/gpu"] == llm["tensor-parallel"]
        assert seconds_of(workload.main["command"], "nproc-per-node") == llm["tensor-parallel"]
        (shm,) = [volume for volume in workload.spec["volumes"] if volume["name"] == "shm"]
        assert shm["emptyDir"]["medium"] == "Memory"
        assert {"name": "shm", "mountPath": "/dev/shm"} in workload.main["volumeMounts"]


def test_ranks_are_started_alike_and_the_leader_alone_answers(suite: Rendered, ranks: dict[str, Workload]) -> None:
    leader, worker = ranks["leader"], ranks["worker"]
    assert leader.main["command"] == worker.main["command"]
    assert not [name for name in worker.main if name.endswith("Probe") or name == "ports"]
    assert suite.selected(suite.named("Service", "llm")["spec"]["selector"]) == [leader]
    # The controller makes a Service of the set's name.
    assert "llm-nodes" not in [found["metadata"]["name"] for found in suite.of_kind("Service")]


def test_ranks_take_their_arguments_and_settings(
    suite: Rendered, ranks: dict[str, Workload], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "may_have_gpu", lambda: True)
    (config,) = suite.of_kind("ConfigMap")
    path = tmp_path / "suite.yaml"
    path.write_text(config["data"]["suite.yaml"])
    for workload in ranks.values():
        arguments = [argument.replace("/etc/specgrove/suite.yaml", str(path)) for argument in workload.main["args"]]
        assert parse_arguments(arguments).demand.layout == ParallelLayout(8, GROUP_SIZE)


def test_ranks_have_the_time_to_drain(ranks: dict[str, Workload]) -> None:
    for workload in ranks.values():
        shutdown_s = seconds_of(workload.main["command"], "shutdown-timeout")
        assert 30 < shutdown_s < workload.spec["terminationGracePeriodSeconds"]


class Node:
    """One pod of a group, as the kubelet starts it, with one rank on this machine's CPU."""

    def __init__(self, workload: Workload, index: int, config: Path, master_port: str, address: str) -> None:
        self._environment = {
            "LWS_LEADER_ADDRESS": "localhost", "LWS_GROUP_SIZE": str(GROUP_SIZE), "LWS_WORKER_INDEX": str(index),
        }  # fmt: skip
        changed = {
            "--nproc-per-node": "1", "--master-port": master_port, "--config": str(config), "--address": address,
            "--health-address": free_address(), "--metrics-address": free_address(),
        }  # fmt: skip
        tini, separator, torchrun, *words = [*workload.main["command"], *workload.main["args"]]
        assert (tini, separator, torchrun) == ("tini", "--", "torchrun")
        words = [self._expanded(word) for word in words]
        words = [f"{flag}={changed.get(flag, value)}" if equals else flag
                 for flag, equals, value in (word.partition("=") for word in words)]  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words], env=os.environ | self._environment
        )

    def _expanded(self, word: str) -> str:
        """As the kubelet does with $(NAME)."""
        return re.sub(r"\$\((\w+)\)", lambda found: self._environment[found[1]], word)

    def kill(self) -> None:
        """With its rank, as when a node is lost."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (*map(int, children), self.process.pid):
            os.kill(pid, 9)
        self.process.wait(LIMIT_S)


@pytest.fixture
def group(ranks: dict[str, Workload], tiny_model: Path, tmp_path: Path) -> Iterator[tuple[Node, Node, str]]:
    """Leader, worker and the leader's address."""
    config = tmp_path / "suite.yaml"
    llm = {
        "model": str(tiny_model), "dtype": "float32", "device": "cpu", "threads": 1, "kv-slots": 256,
        "tensor-parallel": 1, "pipeline-parallel": GROUP_SIZE,
    }  # fmt: skip
    config.write_text(yaml.safe_dump({"cache-dir": str(tmp_path / "cache"), "llm": llm}))
    address, (_, _, master_port) = free_address(), free_address().rpartition(":")
    # The worker first: it waits for the leader.
    worker = Node(ranks["worker"], 1, config, master_port, address)
    leader = Node(ranks["leader"], 0, config, master_port, address)
    yield leader, worker, address
    for node in (leader, worker):
        node.process.terminate()
    for node in (leader, worker):
        node.process.wait(LIMIT_S)


@pytest.mark.slow
def test_the_command_line_starts_one_replica_on_two_nodes_which_ends_as_a_whole(group: tuple[Node, Node, str]) -> None:
    leader, worker, address = group
    with grpc.insecure_channel(address) as channel:
        info = llm_pb2_grpc.LlmServiceStub(channel).GetModelInfo(
            llm_pb2.LlmServiceGetModelInfoRequest(), wait_for_ready=True, timeout=LIMIT_S
        )
    assert "layout 1 x 2" in info.numerics
    worker.kill()
    # The container ends, and with it the group is made anew.
    wait_until(lambda: leader.process.poll() is not None)
    assert leader.process.returncode == 1
