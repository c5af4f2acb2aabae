"""The real suite with the demo models: three processes, started once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.models.hub import DEMO_LLM, resolve_model
from specgrove.serve import Suite, SuiteConfig

SSMS = ("lookup", "demo,name=beam,mode=beam", "demo,name=expansion,mode=expansion")


@pytest.fixture(scope="session")
def demo_llm() -> Path:
    """The demo LLM's folder, made on first use."""
    return resolve_model(DEMO_LLM, cache_dir=Path.home() / ".cache" / "specgrove", progress=print)


@pytest.fixture(scope="session")
def suite(demo_llm: Path) -> Iterator[Suite]:
    """In float32, the precision of the equality promise in this version."""
    with Suite(SuiteConfig(llm_folder=demo_llm, ssms=SSMS, dtype="float32")) as running:
        yield running


@pytest.fixture
def client(suite: Suite) -> Iterator[Client]:
    with Client(suite.address) as connected:
        yield connected
