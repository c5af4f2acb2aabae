"""An SSM that reads the LLM's hidden states, in a real suite: they come to it, it drafts, and no token changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.prompts import load_prompts
from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
from specgrove.models.decoder.family import read_spec
from specgrove.models.hidden_state.own_folder import save_own_folder
from specgrove.suite.processes import Suite, SuiteConfig
from tests.end_to_end.conftest import ALWAYS_DRAFT
from tests.models.hidden_state.tiny_ssms import random_module

NUM_PROMPTS, MAX_TOKENS = 3, 80


@pytest.fixture(scope="module")
def hidden_suite(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """With a random SSM, which is hardly ever right."""
    llm = read_spec(tiny_model)
    folder = tmp_path_factory.mktemp("head")
    module = random_module(
        hidden_size=llm.hidden_size, target_hidden_size=llm.hidden_size, vocab_size=llm.vocab_size, vocab_sha256="",
        hidden_layers=(1, llm.num_layers), first_choice_floor=None, max_position_embeddings=llm.max_position_embeddings,
    )  # fmt: skip
    save_own_folder(folder, module, torch.float32)
    config = SuiteConfig(
        llm_folder=tiny_model, ssms=(f"{folder},name=head",), dtype="float32", router_arguments=ALWAYS_DRAFT
    )
    with Suite(config) as running:
        yield running


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_random_one_changes_no_token(hidden_suite: Suite, temperature: float) -> None:
    num_drafted = 0
    with Client(hidden_suite.address) as client:
        for seed, prompt in enumerate(load_prompts(NUM_PROMPTS)):
            asked = {"max_tokens": MAX_TOKENS, "ignore_eos": True, "temperature": temperature, "seed": seed}
            plain = client.complete(prompt[:200], speculation=SpeculationOptions(disabled=True), **asked)
            drafted = client.complete(
                prompt[:200], speculation=SpeculationOptions(max_num_nodes=4, max_depth=3), **asked
            )
            assert drafted.token_ids == plain.token_ids
            num_drafted += drafted.usage.num_drafted_nodes
    assert num_drafted > 0
