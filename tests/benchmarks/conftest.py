"""What the parts of the GPU benchmark measure on: this processor, through the emulator."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.card import Card


@pytest.fixture(scope="module")
def card() -> Card:
    return Card.measured(torch.device("cpu"))
