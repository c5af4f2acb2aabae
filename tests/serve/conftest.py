"""A model folder that can be looked at in no time, and an LLM whose services are made up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import specgrove.serve as sg
from specgrove.serve import services
from specgrove.suite.processes import SuiteConfig
from tests.conftest import save_tiny_llama
from tests.fake_router import FakeRouter, running_router
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_tokenizer_json


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny_llama(tmp_path_factory.mktemp("serve"), seed=0, vocab_size=VOCAB_SIZE, eos_token_id=EOS)
    (folder / "tokenizer.json").write_bytes(toy_tokenizer_json())
    return folder


@pytest.fixture(autouse=True)
def default_configuration() -> Iterator[None]:
    """What a test says with ``init`` counts for this test alone."""
    yield
    sg.init()


class RunningSuite:
    """In the place of a suite: a router in this process."""

    address = ""
    config: SuiteConfig
    log: list[str]

    def __init__(self, config: SuiteConfig, **_: object) -> None:
        RunningSuite.config = config
        self.local_address = RunningSuite.address

    def start(self) -> None:
        RunningSuite.log.append("start")

    def stop(self) -> None:
        RunningSuite.log.append("stop")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRouter]:
    """The router that every LLM of the test gets."""
    with running_router(tmp_path) as (router, address):
        monkeypatch.setattr(services, "Suite", RunningSuite)
        monkeypatch.setattr(RunningSuite, "address", address)
        RunningSuite.log = []
        yield router


@pytest.fixture
def llm(fake: FakeRouter, model_folder: Path) -> Iterator[sg.LLM]:
    compiled = sg.LLM(model_folder)
    compiled.compile(max_requests_per_batch=4)
    with compiled:
        yield compiled
