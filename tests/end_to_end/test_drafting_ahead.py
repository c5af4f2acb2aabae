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
SAMPLINGS = ({"temperature": 0.0}, {"temperature": 0.8, "seed": 5})
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


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
@pytest.mark.parametrize("ssms", [("itself",), ("rough",), ()], ids=["itself", "rough", "merged"])
def test_outputs_are_the_same_with_it_and_without(
    suites: dict[str, Suite], metrics_address: str, sampling: dict[str, float], ssms: tuple[str, ...]
) -> None:
    num_before = num_ahead(metrics_address)
    prompts = [prompt[:200] for prompt in load_prompts(2)]
    trees = SpeculationOptions(ssms=ssms, max_num_nodes=6, max_depth=3)
    found = {}
    for name, suite in suites.items():
        with Client(suite.address) as client:
            for way, options in {
                "incremental": SpeculationOptions(disabled=True),
                "speculative": trees,
            }.items():
                found[name, way] = [
                    client.complete(
                        prompt, max_tokens=MAX_TOKENS, ignore_eos=True, speculation=options, **sampling
                    ).token_ids
                    for prompt in prompts
                ]
    expected = found["off", "incremental"]
    assert all(outputs == expected for outputs in found.values())

    def has_gone_ahead() -> bool:
        """On a busy machine no draft may be there in time for a tree to be wanted of it: then one request more."""
        if num_ahead(metrics_address) == num_before:
            with Client(suites["on"].address) as client:
                client.complete(prompts[0], max_tokens=MAX_TOKENS, ignore_eos=True, speculation=trees, **sampling)
        return num_ahead(metrics_address) > num_before

    wait_until(has_gone_ahead)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled"])
def test_an_ssm_service_that_is_killed_costs_no_token(suites: dict[str, Suite], sampling: dict[str, float]) -> None:
    """While it drafts ahead: most of the time it does."""
    suite = suites["on"]
    prompt = load_prompts(1)[0][:200]
    num_restarts = suite.num_restarts("ssm_service")
    with Client(suite.address) as client:
        expected = client.complete(
            prompt,
            max_tokens=MAX_TOKENS,
            ignore_eos=True,
            speculation=SpeculationOptions(disabled=True),
            **sampling,
        )
        token_ids: list[int] = []
        is_killed = False
        for chunk in client.generate(prompt, max_tokens=MAX_TOKENS, ignore_eos=True, speculation=TREES, **sampling):
            token_ids.extend(token.token_id for token in chunk.tokens)
            if len(token_ids) >= 12 and not is_killed:
                is_killed = True
                kill(suite, "ssm_service")
    assert is_killed
    assert token_ids == list(expected.token_ids)
    wait_until(lambda: suite.num_restarts("ssm_service") == num_restarts + 1)
