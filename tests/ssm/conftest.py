"""The tiny models that the SSM service's tests draft with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner


@pytest.fixture(scope="session")
def runners(tiny_llama: Path, other_tiny_llama: Path) -> list[ModelRunner]:
    return [ModelRunner(load_decoder(folder, torch.float32), 300) for folder in (tiny_llama, other_tiny_llama)]
