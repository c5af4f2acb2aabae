"""Two real routers over the same services, one killed in mid-stream: the client goes on at the other, and the output doesn't tell."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from specgrove.client import AsyncClient, Client
from specgrove.client.answers import completion_of
from specgrove.client.output import Completion
from specgrove.client.retries import RetryPolicy
from specgrove.loop.request import SpeculationOptions
from specgrove.ranges import MAX_STOP_TEXT_LEN
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.suite.readiness import is_serving
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.waiting import wait_until

PROMPT = tuple(range(40, 70))
DRAFTING = SpeculationOptions(ssms=("lookup",), max_num_nodes=4, max_depth=3)
SAMPLED = {"temperature": 1.0, "seed": 7}
# Enough tries for a router that is started again on a busy machine.
PATIENT = RetryPolicy(max_num_retries=1000, max_delay_s=0.5)
STRUCTURE = "([a-z]{3} ){30}end"
# Nearly all that the model has room for: the longer an output is, the surer its router dies before its end.
NUM_TOKENS = 210
NUM_TRIES = 20
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {"ignore_eos": True, "seed": 1},
    "sampled": {**SAMPLED, "ignore_eos": True},
    "penalties": {
        **SAMPLED, "ignore_eos": True, "repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.8,
        "min_tokens": 120,
    },
    "log-probabilities": {**SAMPLED, "ignore_eos": True, "num_log_probs": 3, "num_prompt_log_probs": 1},
    "a structure": {**SAMPLED, "regex": STRUCTURE},
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tiny_model: Path) -> Iterator[Suite]:
    config = SuiteConfig(
        llm_folder=tiny_model,
        ssms=("lookup,corpus=50000",),
        dtype="float32",
        num_threads=1,
        num_routers=2,
        router_arguments=ALWAYS_DRAFT,
    )
    with Suite(config) as running:
        yield running


def kill(suite: Suite, router: str) -> None:
    """Unless it is down."""
    if (pid := suite.pid(router)) is not None:
        os.kill(pid, signal.SIGKILL)


def cut_off(suite: Suite, num_chunks: int, **params: Any) -> Completion:
    """The output of a client whose router is killed after some chunks with tokens. One that was quicker than the signal is asked anew."""
    for _ in range(NUM_TRIES):
        wait_until(lambda: all(is_serving(address) for address in suite.router_addresses))
        with Client(suite.router_addresses, retry=PATIENT) as client:
            chunks, num_seen = [], 0
            for chunk in client.generate(PROMPT, **params):
                chunks.append(chunk)
                num_seen += bool(chunk.tokens)
                if num_seen == num_chunks and chunk.tokens:
                    kill(suite, "router")
        completion = completion_of(chunks)
        if completion.usage.num_resumed_tokens > 0:
            return completion
    raise AssertionError(f"{NUM_TRIES} outputs were complete before their router was dead")


def same(completion: Completion, expected: Completion) -> None:
    tokens = [(token.token_id, token.text, token.log_probs) for token in completion.tokens]
    assert tokens == [(token.token_id, token.text, token.log_probs) for token in expected.tokens]
    assert completion.text == expected.text
    assert (completion.finish_reason, completion.stop_reason) == (expected.finish_reason, expected.stop_reason)
    assert completion.prompt_tokens == expected.prompt_tokens
    usage, whole = completion.usage, expected.usage
    assert usage.num_resumed_tokens > 0 == whole.num_resumed_tokens
    for name in ("num_prompt_tokens", "num_output_tokens", "seed"):
        assert getattr(usage, name) == getattr(whole, name)


@pytest.mark.parametrize("name", ASKED)
def test_the_other_router_goes_on(pair: Suite, name: str) -> None:
    params = {"max_tokens": NUM_TOKENS, "speculation": DRAFTING, **ASKED[name]}
    with Client(pair.router_addresses[1]) as client:
        expected = client.complete(PROMPT, **params)
    same(cut_off(pair, 5, **params), expected)
    if name == "a structure":
        assert re.fullmatch(STRUCTURE, expected.text)


def test_a_stop_text_spans_the_seam(pair: Suite) -> None:
    params: dict[str, Any] = {"max_tokens": NUM_TOKENS, **SAMPLED, "ignore_eos": True}
    incremental = SpeculationOptions(disabled=True)
    with Client(pair.router_addresses[1]) as client:
        whole = client.complete(PROMPT, speculation=incremental, **params)
        # It begins with the third token and ends far behind the fifth chunk: the client has a part of it, and the router is dead in time.
        num_tokens = max(
            end
            for end in range(3, NUM_TOKENS)
            if len("".join(token.text for token in whole.tokens[2:end])) <= MAX_STOP_TEXT_LEN
        )
        stop = "".join(token.text for token in whole.tokens[2:num_tokens])
        expected = client.complete(PROMPT, stop=stop, speculation=incremental, **params)
    assert expected.stop_reason == stop
    assert 100 < len(expected.tokens) <= num_tokens
    same(cut_off(pair, 5, stop=stop, speculation=incremental, **params), expected)


def test_many_clients_go_on_through_kills_of_both_routers(pair: Suite) -> None:
    params: dict[str, Any] = {"max_tokens": NUM_TOKENS, **SAMPLED, "ignore_eos": True, "speculation": DRAFTING}
    prompts = [(number, *PROMPT) for number in range(1, 7)]

    async def outputs(*, kills: bool) -> list[Completion]:
        num_chunks = 0

        async def one(client: AsyncClient, prompt: tuple[int, ...]) -> Completion:
            nonlocal num_chunks
            chunks = []
            async for chunk in client.generate(prompt, **params):
                chunks.append(chunk)
                num_chunks += 1
                if kills and num_chunks in (20, 60, 100):
                    kill(pair, "router-2" if num_chunks == 60 else "router")
            return completion_of(chunks)

        async with AsyncClient(pair.router_addresses, retry=PATIENT) as client:
            return list(await asyncio.gather(*(one(client, prompt) for prompt in prompts)))

    wait_until(lambda: all(is_serving(address) for address in pair.router_addresses))
    expected = asyncio.run(outputs(kills=False))
    found = asyncio.run(outputs(kills=True))
    assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
    assert [completion.text for completion in found] == [completion.text for completion in expected]
