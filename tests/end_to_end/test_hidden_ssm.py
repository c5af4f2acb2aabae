"""SSMs that the LLM tells what it computed, in a real suite: its hidden states or its top tokens come, they draft, no token changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.prompts import load_prompts
from specgrove.client import Client
from specgrove.client.output import Chunk
from specgrove.loop.request import SpeculationOptions
from specgrove.models.decoder.family import read_spec
from specgrove.models.hidden_state.own_folder import save_own_folder
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.suite.readiness import is_serving
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.end_to_end.kills import kill
from tests.models.hidden_state.tiny_ssms import random_module
from tests.waiting import wait_until

NUM_PROMPTS, MAX_TOKENS = 3, 80


@pytest.fixture(scope="module")
def hidden_suite(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """With a random SSM over hidden states, which is hardly ever right, and a table of the LLM's top tokens."""
    llm = read_spec(tiny_model)
    folder = tmp_path_factory.mktemp("head")
    module = random_module(
        hidden_size=llm.hidden_size, target_hidden_size=llm.hidden_size, vocab_size=llm.vocab_size, vocab_sha256="",
        hidden_layers=(1, llm.num_layers), first_choice_floor=0.0, max_position_embeddings=llm.max_position_embeddings,
    )  # fmt: skip
    save_own_folder(folder, module, torch.float32)
    config = SuiteConfig(
        llm_folder=tiny_model,
        ssms=(f"{folder},name=head", "recycle"),
        dtype="float32",
        num_threads=1,
        router_arguments=ALWAYS_DRAFT,
    )
    with Suite(config) as running:
        yield running


@pytest.mark.parametrize("temperature", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_no_token_changes(hidden_suite: Suite, temperature: float) -> None:
    with Client(hidden_suite.address) as client:
        for ssm in ("head", "recycle"):
            _wait_until_drafted(client, ssm, {"max_tokens": MAX_TOKENS, "temperature": temperature})
        for seed, prompt in enumerate(load_prompts(NUM_PROMPTS)):
            asked = {"max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": temperature, "seed": seed}
            plain = client.complete(prompt[:200], speculation=SpeculationOptions(disabled=True), **asked)
            for ssm in ("head", "recycle"):
                drafted = client.complete(prompt[:200], speculation=_by(ssm), **asked)
                assert drafted.token_ids == plain.token_ids


@pytest.mark.parametrize("temperature", [0.0, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_service_killed_while_it_reads_hidden_states_costs_no_token(hidden_suite: Suite, temperature: float) -> None:
    asked = {"max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": temperature, "seed": 5}
    prompt = load_prompts(1)[0]
    num_restarts = hidden_suite.num_restarts("ssm_service")
    with Client(hidden_suite.address) as client:
        _wait_until_drafted(client, "head", asked)
        expected = client.complete(prompt, speculation=SpeculationOptions(disabled=True), **asked)
        token_ids: list[int] = []
        wait_until(
            lambda: _killed_amid(
                hidden_suite, client.generate(prompt, speculation=_by("head"), step_details=True, **asked), token_ids
            )
        )
        assert tuple(token_ids) == expected.token_ids
        wait_until(lambda: hidden_suite.num_restarts("ssm_service") == num_restarts + 1)
        wait_until(lambda: is_serving(hidden_suite.address_of("ssm_service")))
        # The new one has seen nothing of the session's past; of a new session it sees all.
        _wait_until_drafted(client, "head", asked)
        assert client.complete(prompt, speculation=_by("head"), **asked).token_ids == expected.token_ids


def _killed_amid(suite: Suite, chunks: Iterator[Chunk], token_ids: list[int]) -> bool:
    """Reads an output and kills the SSM service as soon as it has drafted; False where that comes too late for all of them."""
    token_ids.clear()
    num_drafted, pid = 0, None
    for chunk in chunks:
        token_ids += [token.token_id for token in chunk.tokens]
        num_drafted += len(chunk.step_details.nodes) if chunk.step_details is not None else 0
        if pid is None and num_drafted > 0 and len(token_ids) > MAX_TOKENS // 4:
            pid = kill(suite, "ssm_service")
    return pid is not None


def _wait_until_drafted(client: Client, ssm: str, asked: dict[str, Any]) -> None:
    """On a busy machine the router may not know the SSMs yet, and one may be late for a while."""
    wait_until(lambda: ssm in client.model_info().ssms)
    prompt = load_prompts(1)[0]
    wait_until(lambda: client.complete(prompt, speculation=_by(ssm), **asked).usage.num_drafted_nodes > 0)


def _by(ssm: str) -> SpeculationOptions:
    return SpeculationOptions(ssms=(ssm,), max_num_nodes=4, max_depth=3)
