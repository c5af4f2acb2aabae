"""The LLM spread over processes: the same tokens, and a rank that dies or hangs takes no answer with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.request import SpeculationOptions
from specgrove.serve import Suite, SuiteConfig, is_serving
from tests.waiting import wait_until

QUESTION = [("user", "Explain how a bicycle stays upright, in detail.")]
SPECULATION = SpeculationOptions(max_num_nodes=6, max_depth=3)
PARAMS = {"max_tokens": 48, "temperature": 0.8, "seed": 5, "ignore_eos": True, "speculation": SPECULATION}


@pytest.fixture(scope="module")
def log() -> list[str]:
    """What the services of ``spread`` print."""
    return []


@pytest.fixture(scope="module")
def spread(demo_llm: Path, log: list[str]) -> Iterator[Suite]:
    """Two tensor-parallel ranks in each of two stages."""
    config = SuiteConfig(
        llm_folder=demo_llm, ssms=("lookup", "demo"), dtype="float32",
        llm_arguments=("--tensor-parallel", "2", "--pipeline-parallel", "10,20", "--kv-slots", "4096"),
    )  # fmt: skip
    with Suite(config, log_line=lambda name, line: log.append(f"{name}: {line}")) as running:
        yield running


def rank_pids(suite: Suite) -> list[int]:
    """The ranks' processes, in order of their start."""
    launcher = suite.pid("llm_service")
    assert launcher is not None
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    assert len(children) == 4
    return [int(pid) for pid in children]


def test_ranks_change_no_token(suite: Suite, spread: Suite) -> None:
    with Client(suite.address) as one, Client(spread.address) as four:
        for params in (PARAMS, PARAMS | {"temperature": 0.0}):
            assert four.complete(QUESTION, **params).token_ids == one.complete(QUESTION, **params).token_ids


def test_long_prompts_go_through_in_chunks(suite: Suite, demo_llm: Path) -> None:
    """One stage: passes over chunks alone have no logits, on any rank."""
    question = [("user", "Summarise: " + "the bridge over the river is old and narrow, " * 40)]
    params = {"max_tokens": 8, "speculation": SPECULATION}
    arguments = ("--tensor-parallel", "2", "--kv-slots", "4096")
    config = SuiteConfig(llm_folder=demo_llm, ssms=("lookup",), dtype="float32", llm_arguments=arguments)
    with Suite(config) as pair, Client(suite.address) as one, Client(pair.address) as two:
        expected = one.complete(question, **params)
        assert expected.usage.num_prompt_tokens > 300
        assert two.complete(question, **params).token_ids == expected.token_ids


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGKILL), (3, signal.SIGKILL), (2, signal.SIGSTOP)])
def test_a_lost_rank_is_named_and_costs_no_token(
    suite: Suite, spread: Suite, log: list[str], rank: int, number: signal.Signals
) -> None:
    with Client(suite.address) as client:
        expected = client.complete(QUESTION, **PARAMS)
    num_restarts = spread.num_restarts("llm_service")
    victim, log_start = rank_pids(spread)[rank], len(log)
    token_ids: list[int] = []
    is_lost = False
    with Client(spread.address) as client:
        for chunk in client.generate(QUESTION, **PARAMS):
            token_ids.extend(token.token_id for token in chunk.tokens)
            if len(token_ids) >= 10 and not is_lost:
                os.kill(victim, number)
                is_lost = True
                wait_until(lambda: spread.num_restarts("llm_service") > num_restarts)
    assert is_lost
    assert token_ids == list(expected.token_ids)
    assert spread.num_restarts("llm_service") == num_restarts + 1
    if rank > 0:
        said = [line for line in log[log_start:] if "ERROR" in line]
        assert any(f"rank {rank} (stage {rank // 2}, tensor rank {rank % 2})" in line for line in said), said


def test_an_idle_service_notices_too(spread: Suite) -> None:
    wait_until(lambda: is_serving(spread.address_of("llm_service")))
    num_restarts = spread.num_restarts("llm_service")
    os.kill(rank_pids(spread)[1], signal.SIGKILL)
    wait_until(lambda: spread.num_restarts("llm_service") == num_restarts + 1)
    wait_until(lambda: is_serving(spread.address_of("llm_service")))
