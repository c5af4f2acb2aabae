"""The real suite with the demo models: three processes, started once for all tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.models.hub import DEMO_LLM, resolve_model
from specgrove.suite import Suite, SuiteConfig
from tests.addresses import free_address, free_addresses
from tests.conftest import save_tiny_llama
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_tokenizer_json

# Whether drafting pays differs from machine to machine, and with what else runs there.
ALWAYS_DRAFT = ("--tree-policy", "static")
SSMS = ("lookup", "demo,name=beam,mode=beam", "demo,name=expansion,mode=expansion")


@pytest.fixture(scope="session")
def demo_llm() -> Path:
    """The demo LLM's folder, made on first use."""
    return resolve_model(DEMO_LLM, cache_dir=Path.home() / ".cache" / "specgrove", progress=print)


@pytest.fixture(scope="session")
def http_address() -> str:
    """Where the suite's router speaks HTTP."""
    return free_address()


@pytest.fixture(scope="session")
def suite(demo_llm: Path, http_address: str) -> Iterator[Suite]:
    """In float32, the precision of the equality promise in this version."""
    router = (*ALWAYS_DRAFT, "--http-address", http_address)
    config = SuiteConfig(llm_folder=demo_llm, ssms=SSMS, dtype="float32", router_arguments=router)
    with Suite(config) as running:
        yield running


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(suite.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the real services load in no time: a random Llama of bytes, with a tokenizer."""
    folder = save_tiny_llama(
        tmp_path_factory.mktemp("tiny_model"), seed=0, vocab_size=VOCAB_SIZE, eos_token_id=EOS, hidden_size=64,
        intermediate_size=128, num_attention_heads=4, head_dim=16, max_position_embeddings=1024,
    )  # fmt: skip
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": EOS, "temperature": 0.5, "top_k": 20}))
    return folder


@pytest.fixture(scope="session")
def metrics_address() -> str:
    """Where the tiny suite's router tells its metrics; those of the other services are at the next ports."""
    return free_addresses(3)[0]


@pytest.fixture(scope="session")
def tiny_suite(tiny_model: Path, metrics_address: str) -> Iterator[Suite]:
    """One process each. The LLM is drafted for by lookups and by itself."""
    names = "--metrics-vllm-names"
    config = SuiteConfig(
        llm_folder=tiny_model,
        ssms=("lookup", f"{tiny_model},name=itself,mode=beam,width=1"),
        dtype="float32",
        llm_arguments=(names,),
        router_arguments=(*ALWAYS_DRAFT, names),
        metrics_address=metrics_address,
    )
    with Suite(config) as running:
        yield running
