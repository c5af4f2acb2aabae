"""One LLM service on two hosts: its ranks answer like one, none outlives the other's host or the cable, and both come back together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.suite.readiness import is_serving
from tests.k8s.two_hosts import Processes, TwoHosts, running, two_hosts
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

QUESTION = "Explain how a bicycle stays upright, in detail."
# Greedy outputs of so small a model go round in circles.
SAMPLED: dict[str, Any] = {
    "max_tokens": 120,
    "temperature": 1.0,
    "seed": 5,
    "ignore_eos": True,
    "speculation": SpeculationOptions(ssms=("lookup",), max_num_nodes=6, max_depth=3),
}
GREEDY = SAMPLED | {"temperature": 0.0, "max_tokens": 40}
MODEL = ("--dtype", "float32", "--kv-slots", "4096", "--threads", "1")
ALWAYS_DRAFT = ("--tree-policy", "static")
STORE_PORT = 29500


@dataclass(frozen=True)
class Spread:
    """A suite whose rank 0 is in front, with the router, and whose rank 1 is at the back."""

    hosts: TwoHosts
    processes: Processes
    address: str

    def num_starts(self, rank: int) -> int:
        """How often the host of a rank has started it again."""
        return self.processes.supervisor.num_restarts(f"rank-{rank}")


@contextlib.contextmanager
def spread(model: Path, sockets: Path, *layout: str) -> Iterator[Spread]:
    """Ranks are started by ``torchrun``, one on each host."""
    with two_hosts() as hosts:
        address, llm, ssm = f"unix:{sockets}/router.sock", hosts.front.at(50052), hosts.front.at(50053)
        ranks = [
            host.process(
                f"rank-{rank}", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1",
                f"--master-addr={hosts.front.ip}", f"--master-port={STORE_PORT}",
                "-m", "llm_service", "--model", str(model), *MODEL, *layout, "--address", llm,
            )
            for rank, host in enumerate((hosts.front, hosts.back))
        ]  # fmt: skip
        specs = (
            *reversed(ranks),  # rank 0 is stopped first
            hosts.front.process("ssm", "ssm_service", "--ssm", "lookup", "--address", ssm),
            hosts.front.process(
                "router", "router", *ALWAYS_DRAFT, "--address", address, "--llm", llm, "--ssm", ssm
            ),
        )  # fmt: skip
        with running(specs) as processes:
            wait_until(lambda: is_serving(address) and processes.has_said(f"{ssm}: connected"))
            yield Spread(hosts, processes, address)


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> list[tuple[int, ...]]:
    """What one process gives, sampled and greedily."""
    config = SuiteConfig(
        llm_folder=tiny_model, ssms=("lookup",), dtype="float32", router_arguments=ALWAYS_DRAFT,
        llm_arguments=("--kv-slots", "4096"),
    )  # fmt: skip
    with Suite(config) as suite, Client(suite.address) as client:
        return [client.complete(QUESTION, **params).token_ids for params in (SAMPLED, GREEDY)]


@pytest.fixture(scope="module")
def tensor_parallel(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spread]:
    with spread(tiny_model, tmp_path_factory.mktemp("sockets"), "--tensor-parallel", "2") as running_apart:
        yield running_apart


def answers_of(address: str) -> list[tuple[int, ...]]:
    with Client(address) as client:
        return [client.complete(QUESTION, **params).token_ids for params in (SAMPLED, GREEDY)]


def test_tensor_parallel_ranks_answer_like_one(tensor_parallel: Spread, expected: list[tuple[int, ...]]) -> None:
    assert answers_of(tensor_parallel.address) == expected


def test_stages_answer_like_one(tiny_model: Path, tmp_path: Path, expected: list[tuple[int, ...]]) -> None:
    with spread(tiny_model, tmp_path, "--pipeline-parallel", "1,2") as running_apart:
        assert answers_of(running_apart.address) == expected


def cut_until_both_have_ended(running_apart: Spread) -> None:
    """Neither host can tell the other anything."""
    num_starts = [running_apart.num_starts(rank) for rank in (0, 1)]
    running_apart.hosts.cut()
    wait_until(lambda: all(running_apart.num_starts(rank) > num_starts[rank] for rank in (0, 1)))
    running_apart.hosts.mend()


@pytest.mark.parametrize(
    "lose",
    [lambda s: s.hosts.back.lose_power(), cut_until_both_have_ended],
    ids=["the other host loses power", "the cable between them is cut"],
)
def test_ranks_end_together_and_come_back_together_and_no_token_is_lost(
    tensor_parallel: Spread, expected: list[tuple[int, ...]], lose: Callable[[Spread], None]
) -> None:
    num_starts = [tensor_parallel.num_starts(rank) for rank in (0, 1)]
    token_ids: list[int] = []
    is_lost = False
    with Client(tensor_parallel.address) as client:
        for chunk in client.generate(QUESTION, **SAMPLED):
            token_ids.extend(token.token_id for token in chunk.tokens)
            if len(token_ids) >= 10 and not is_lost:
                is_lost = True
                lose(tensor_parallel)
                assert len(token_ids) < SAMPLED["max_tokens"]
    assert is_lost
    assert token_ids == list(expected[0])
    assert all(tensor_parallel.num_starts(rank) > num_starts[rank] for rank in (0, 1))
