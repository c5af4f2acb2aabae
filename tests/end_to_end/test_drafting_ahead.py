"""Asynchronous drafting changes no token: real services with it on and off, greedy and sampled, an SSM service killed in mid-stream."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.prompts import load_prompts
from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite, SuiteConfig
from tests.addresses import free_addresses
from tests.end_to_end.kills import kill
from tests.waiting import wait_until

TREES = SpeculationOptions(max_num_nodes=6, max_depth=3)
SAMPLINGS = {"greedy": {"temperature": 0.0}, "sampled": {"temperature": 0.8, "seed": 5}}
MAX_TOKENS = 96


@pytest.fixture(scope="module")
def metrics_address() -> str:
    """Of one of the suites: its router's; those of the other services are at the next ports."""
    return free_addresses(3)[0]


@pytest.fixture(scope="module")
def suites(tiny_model: Path, metrics_address: str) -> Iterator[dict[str, Suite]]:
    """Alike but for ``--draft-ahead``. The LLM is drafted for by itself, and by itself in another precision."""
    ssms = (
        "lookup",
        f"{tiny_model},name=itself,mode=beam,width=2",
        f"{tiny_model},name=rough,quantization=int4,mode=beam",
    )
    common = {"llm_folder": tiny_model, "ssms": ssms, "dtype": "float32", "num_threads": 1}
    with (
        Suite(SuiteConfig(**common, ssm_arguments=("--draft-ahead", "off"))) as off,
        Suite(SuiteConfig(**common, ssm_arguments=("--draft-ahead", "on"), metrics_address=metrics_address)) as on,
    ):
        yield {"off": off, "on": on}


def num_ahead(address: str) -> float:
    """Trees wanted of SSMs that went ahead, so far. How many of them were there is a matter of time."""
    with urllib.request.urlopen(f"http://{address}/metrics") as response:
        lines = response.read().decode().splitlines()
    name = "specgrove_router_drafts_ahead_total{"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def answers(suite: Suite, speculation: SpeculationOptions, sampling: dict[str, float]) -> list[tuple[int, ...]]:
    asked = {"max_tokens": MAX_TOKENS, "ignore_eos": True, "speculation": speculation, **sampling}
    with Client(suite.address) as client:
        return [client.complete(prompt[:200], **asked).token_ids for prompt in load_prompts(2)]


@pytest.fixture(scope="module")
def undrafted(
    request: pytest.FixtureRequest, suites: dict[str, Suite]
) -> tuple[dict[str, float], list[tuple[int, ...]]]:
    """A sampling, and its outputs without drafts."""
    sampling = SAMPLINGS[request.param]
    off, on = (answers(suite, SpeculationOptions(disabled=True), sampling) for suite in suites.values())
    assert off == on
    return sampling, off


# `make test` has each SSM alone and both merged, greedy and sampled, but not each with each.
@pytest.mark.parametrize(
    ("undrafted", "ssms"),
    [
        ("greedy", ("itself",)),
        pytest.param("greedy", ("rough",), marks=pytest.mark.slow),
        pytest.param("greedy", (), marks=pytest.mark.slow),
        pytest.param("sampled", ("itself",), marks=pytest.mark.slow),
        ("sampled", ("rough",)),
        ("sampled", ()),
    ],
    indirect=["undrafted"],
    scope="module",
)
def test_outputs_are_the_same_with_it_and_without(
    suites: dict[str, Suite],
    metrics_address: str,
    undrafted: tuple[dict[str, float], list[tuple[int, ...]]],
    ssms: tuple[str, ...],
) -> None:
    sampling, expected = undrafted
    num_before = num_ahead(metrics_address)
    trees = SpeculationOptions(ssms=ssms, max_num_nodes=6, max_depth=3)
    for suite in suites.values():
        assert answers(suite, trees, sampling) == expected

    def has_gone_ahead() -> bool:
        """On a busy machine no draft may be there in time for a tree to be wanted of it: then one request more."""
        if num_ahead(metrics_address) == num_before:
            answers(suites["on"], trees, sampling)
        return num_ahead(metrics_address) > num_before

    wait_until(has_gone_ahead)


@pytest.mark.parametrize(
    "undrafted", [pytest.param("greedy", marks=pytest.mark.slow), "sampled"], indirect=True, scope="module"
)
def test_an_ssm_service_that_is_killed_costs_no_token(
    suites: dict[str, Suite], undrafted: tuple[dict[str, float], list[tuple[int, ...]]]
) -> None:
    """While it drafts ahead: most of the time it does."""
    sampling, (expected, _) = undrafted
    suite = suites["on"]
    prompt = load_prompts(1)[0][:200]
    num_restarts = suite.num_restarts("ssm_service")
    with Client(suite.address) as client:
        token_ids: list[int] = []
        is_killed = False
        for chunk in client.generate(prompt, max_tokens=MAX_TOKENS, ignore_eos=True, speculation=TREES, **sampling):
            token_ids.extend(token.token_id for token in chunk.tokens)
            if len(token_ids) >= 12 and not is_killed:
                is_killed = True
                kill(suite, "ssm_service")
    assert is_killed
    assert token_ids == list(expected)
    wait_until(lambda: suite.num_restarts("ssm_service") == num_restarts + 1)
