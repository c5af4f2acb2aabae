"""A verifier engine over a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from specgrove.models.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from tests.llm.verifying import Clock


@pytest.fixture(scope="module")
def runner(tiny_llama: Path) -> ModelRunner:
    return ModelRunner(load_decoder(tiny_llama, torch.float32), num_slots=400)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(runner: ModelRunner, clock: Clock) -> VerifierEngine:
    return VerifierEngine(runner, VerifierConfig(max_model_len=200, max_num_chunk_tokens=4), clock)
