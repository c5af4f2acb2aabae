"""The LLM spread over processes: the same tokens, and a rank that dies or hangs takes no answer with it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.suite.readiness import is_serving
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

QUESTION = "Explain how a bicycle stays upright, in detail."
SPECULATION = SpeculationOptions(ssms=("lookup",), max_num_nodes=6, max_depth=3)
# Greedy outputs of so small a model go round in circles.
PARAMS = {"max_tokens": 120, "temperature": 1.0, "seed": 5, "ignore_eos": True, "speculation": SPECULATION}


@dataclass(frozen=True)
class Spread:
    """A suite whose LLM service is several processes, and what its services print."""

    suite: Suite
    num_ranks: int
    log: list[str] = field(default_factory=list)

    def rank_pids(self) -> list[int]:
        """In order of their start."""
        launcher = self.suite.pid("llm_service")
        assert launcher is not None
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        assert len(children) == self.num_ranks
        return [int(pid) for pid in children]

    def num_restarts(self) -> int:
        return self.suite.num_restarts("llm_service")


@contextlib.contextmanager
def spread(model: Path, num_ranks: int, *layout: str) -> Iterator[Spread]:
    log: list[str] = []
    config = SuiteConfig(
        llm_folder=model, ssms=("lookup",), dtype="float32", num_threads=1, router_arguments=ALWAYS_DRAFT,
        llm_arguments=(*layout, "--kv-slots", "4096"),
    )  # fmt: skip
    with Suite(config, log_line=lambda name, line: log.append(f"{name}: {line}")) as suite:
        yield Spread(suite, num_ranks, log)


@pytest.fixture(scope="module")
def four(tiny_model: Path) -> Iterator[Spread]:
    """Two tensor-parallel ranks in each of two stages."""
    with spread(tiny_model, 4, "--tensor-parallel", "2", "--pipeline-parallel", "1,2") as running:
        yield running


@pytest.fixture(scope="module")
def two(tiny_model: Path) -> Iterator[Spread]:
    """Two tensor-parallel ranks."""
    with spread(tiny_model, 2, "--tensor-parallel", "2") as running:
        yield running


@pytest.fixture(scope="module")
def expected(tiny_suite: Suite) -> tuple[int, ...]:
    """What one process gives."""
    with Client(tiny_suite.address) as client:
        return client.complete(QUESTION, **PARAMS).token_ids


def test_ranks_change_no_token(tiny_suite: Suite, four: Spread, expected: tuple[int, ...]) -> None:
    greedily = PARAMS | {"temperature": 0.0, "max_tokens": 40}
    with Client(tiny_suite.address) as one, Client(four.suite.address) as spread:
        assert spread.complete(QUESTION, **PARAMS).token_ids == expected
        assert spread.complete(QUESTION, **greedily).token_ids == one.complete(QUESTION, **greedily).token_ids


def test_log_probabilities_of_prompts_come_from_the_last_stage(tiny_suite: Suite, four: Spread) -> None:
    """Sums over ranks have other last bits than one process's, and always the same."""
    text = "Summarise: " + "the bridge over the river is old and narrow, " * 8
    with Client(tiny_suite.address) as one, Client(four.suite.address) as spread:
        expected, first, second = (
            client.complete(text, num_prompt_log_probs=2, prompt_only=True).prompt_tokens
            for client in (one, spread, spread)
        )
    assert first == second
    assert [token.token_id for token in first] == [token.token_id for token in expected]
    for found, wanted in zip(first[1:], expected[1:], strict=True):
        assert found.log_probs is not None
        assert wanted.log_probs is not None
        assert found.log_probs.log_prob == pytest.approx(wanted.log_probs.log_prob, abs=1e-3)


def test_long_prompts_go_through_in_chunks(tiny_suite: Suite, two: Spread) -> None:
    """One stage: passes over chunks alone have no logits, on any rank."""
    question = "Summarise: " + "the bridge over the river is old and narrow, " * 16
    params = PARAMS | {"max_tokens": 8}
    with Client(tiny_suite.address) as one, Client(two.suite.address) as spread:
        expected = one.complete(question, **params)
        assert expected.usage.num_prompt_tokens > 600
        assert spread.complete(question, **params).token_ids == expected.token_ids


@pytest.mark.parametrize(
    ("layout", "rank", "number"),
    [("two", 0, signal.SIGKILL), ("two", 1, signal.SIGSTOP), ("four", 3, signal.SIGKILL)],
)
def test_a_lost_rank_is_named_and_costs_no_token(
    request: pytest.FixtureRequest, expected: tuple[int, ...], layout: str, rank: int, number: signal.Signals
) -> None:
    spread: Spread = request.getfixturevalue(layout)
    num_restarts, log_start = spread.num_restarts(), len(spread.log)
    victim = spread.rank_pids()[rank]
    token_ids: list[int] = []
    is_lost = False
    with Client(spread.suite.address) as client:
        for chunk in client.generate(QUESTION, **PARAMS):
            token_ids.extend(token.token_id for token in chunk.tokens)
            if len(token_ids) >= 10 and not is_lost:
                os.kill(victim, number)
                is_lost = True
                wait_until(lambda: spread.num_restarts() > num_restarts)
    assert is_lost
    assert token_ids == list(expected)
    assert spread.num_restarts() == num_restarts + 1
    if rank > 0:
        said = [line for line in spread.log[log_start:] if "ERROR" in line]
        assert any(f"rank {rank} (stage {rank // 2}, tensor rank {rank % 2})" in line for line in said), said


def test_an_idle_service_notices_too(two: Spread) -> None:
    wait_until(lambda: is_serving(two.suite.address_of("llm_service")))
    num_restarts = two.num_restarts()
    os.kill(two.rank_pids()[1], signal.SIGKILL)
    wait_until(lambda: two.num_restarts() == num_restarts + 1)
    wait_until(lambda: is_serving(two.suite.address_of("llm_service")))
