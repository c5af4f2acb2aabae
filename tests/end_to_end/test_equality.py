"""Speculation changes no token, on the real model through the real services. ``benchmarks.equality`` is the full-size form."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.equality import MODES, SAMPLINGS
from benchmarks.prompts import load_prompts
from specgrove.client import AsyncClient
from specgrove.client.output import Completion
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite

NUM_PROMPTS = 3
MAX_TOKENS = 24


async def outputs(suite: Suite, sampling: str, speculation: SpeculationOptions, max_tokens: int) -> list[Completion]:
    async with AsyncClient(suite.address) as client:
        calls = [
            client.complete([("user", prompt)], max_tokens=max_tokens, seed=seed, speculation=speculation, **SAMPLINGS[sampling])
            for seed, prompt in enumerate(load_prompts(NUM_PROMPTS))
        ]  # fmt: skip
        return list(await asyncio.gather(*calls))


# Sampled trees of one drafter alone are left to the slow tests: in merged ones are all drafters'.
CASES = [
    pytest.param(sampling, mode, marks=() if sampling == "greedy" or mode == "merged" else pytest.mark.slow)
    for sampling in SAMPLINGS
    for mode in MODES
]


@pytest.fixture(scope="module")
def incremental(request: pytest.FixtureRequest, suite: Suite) -> tuple[str, list[Completion]]:
    disabled = SpeculationOptions(disabled=True)
    return request.param, asyncio.run(outputs(suite, request.param, disabled, MAX_TOKENS))


@pytest.mark.parametrize(("incremental", "mode"), CASES, indirect=["incremental"], scope="module")
def test_speculative_output_equals_incremental(
    suite: Suite, incremental: tuple[str, list[Completion]], mode: str
) -> None:
    sampling, expected = incremental
    found = asyncio.run(outputs(suite, sampling, MODES[mode], MAX_TOKENS))
    assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
    assert [completion.text for completion in found] == [completion.text for completion in expected]
    assert all(completion.usage.num_drafted_nodes == 0 for completion in expected)
    assert sum(completion.usage.num_drafted_nodes for completion in found) > 0
    drafters = {name for completion in found for token in completion.tokens for name in token.drafted_by}
    assert drafters <= ({"beam", "expansion", "lookup"} if mode == "merged" else {mode})
    if mode in ("beam", "merged"):
        assert drafters, "no drafted token was accepted"
