"""Real services whose KV slots are enough for a third of the load: everybody gets the output that it gets alone."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

from specgrove.client import AsyncClient
from specgrove.client.output import Completion
from specgrove.suite.processes import Suite, SuiteConfig
from tests.addresses import free_addresses
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.telemetry.scraping import samples_of, value
from tests.waiting import LIMIT_S

NUM_CLIENTS, PROMPT_LEN, NUM_OUTPUT_TOKENS = 12, 40, 80
MAX_NUM_ROUNDS = 20
NUM_SLOTS = NUM_CLIENTS * (PROMPT_LEN + NUM_OUTPUT_TOKENS) // 3


def prompt_of(number: int) -> list[int]:
    """No two begin alike."""
    return [33 + number, *(33 + (number * 7 + place * place) % 90 for place in range(PROMPT_LEN - 1))]


async def complete(client: AsyncClient, number: int, salt: str) -> Completion:
    """Every other one is sampled."""
    temperature = 1.0 if number % 2 else 0.0
    return await client.complete(
        prompt_of(number),
        max_tokens=NUM_OUTPUT_TOKENS,
        temperature=temperature,
        seed=number,
        ignore_eos=True,
        cache_salt=salt,
    )


async def at_once(client: AsyncClient, salt: str) -> list[Completion]:
    """Each of a salt of its own: nothing is shared."""
    return await asyncio.gather(*(complete(client, number, f"{salt} {number}") for number in range(NUM_CLIENTS)))


async def outputs(suite: Suite) -> tuple[list[Completion], list[Completion]]:
    """One after the other, and all at once: again where they came so slowly, on a busy machine, that there was room for all."""
    async with AsyncClient(suite.address, retry=None) as client:
        alone = [await complete(client, number, f"alone {number}") for number in range(NUM_CLIENTS)]
        together: list[Completion] = []
        for round_number in range(MAX_NUM_ROUNDS):
            together += await at_once(client, f"round {round_number}")
            if num_preemptions(suite) > 0:
                return alone, together
    raise AssertionError(f"there was room for all {NUM_CLIENTS} clients, {MAX_NUM_ROUNDS} times")


def num_preemptions(suite: Suite) -> float:
    address = suite.metrics_addresses()["llm_service"]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=LIMIT_S) as answer:
        return value(samples_of(answer.read().decode()), "specgrove_llm_preemptions_total")


def test_slots_for_a_third_of_the_load_fail_nobody_and_change_no_output(tiny_model: Path) -> None:
    metrics_address = free_addresses(3)[0]
    config = SuiteConfig(
        llm_folder=tiny_model,
        ssms=(f"{tiny_model},name=itself,mode=beam,width=2",),
        dtype="float32",
        llm_arguments=("--kv-slots", str(NUM_SLOTS)),
        router_arguments=ALWAYS_DRAFT,
        metrics_address=metrics_address,
    )
    with Suite(config) as suite:
        alone, together = asyncio.run(outputs(suite))
    num_rounds = len(together) // NUM_CLIENTS
    assert [one.token_ids for one in together] == num_rounds * [one.token_ids for one in alone]
    assert [one.text for one in together] == num_rounds * [one.text for one in alone]
    assert all(one.usage.num_output_tokens == NUM_OUTPUT_TOKENS for one in together)
