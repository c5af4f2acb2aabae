"""The real suite with the demo models: three processes, started once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.suite import supervisor
from specgrove.suite.processes import Suite, SuiteConfig
from tests.addresses import free_address, free_addresses

# Whether drafting pays differs from machine to machine, and with what else runs there. The largest trees, which are asked for in
# every step, would take most of these tests' time.
ALWAYS_DRAFT = ("--tree-policy", "static", "--max-tree-nodes", "8", "--max-tree-depth", "5")
# Short outputs repeat themselves seldom: a corpus gives lookup something to draft.
SSMS = ("lookup,corpus=50000", "demo,name=beam,mode=beam", "demo,name=expansion,mode=expansion")


@pytest.fixture(scope="module", autouse=True)
def soon_again() -> Iterator[None]:
    """Services that are killed come back after the shortest pause, however often; ``tests/suite`` has the longer ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "_SETTLED_S", 0.0)
        yield


@pytest.fixture(scope="session")
def http_address() -> str:
    """Where the suite's router speaks HTTP."""
    return free_address()


@pytest.fixture(scope="session")
def suite(demo_llm: Path, http_address: str) -> Iterator[Suite]:
    """In bfloat16, as it is served where nothing else is asked for."""
    router = (*ALWAYS_DRAFT, "--http-address", http_address)
    config = SuiteConfig(llm_folder=demo_llm, ssms=SSMS, router_arguments=router)
    with Suite(config) as running:
        yield running


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(suite.address) as connected:
        yield connected


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
        num_threads=1,
        llm_arguments=(names,),
        router_arguments=(*ALWAYS_DRAFT, names),
        metrics_address=metrics_address,
    )
    with Suite(config) as running:
        yield running
