"""A card whose speed is known, and times."""

from __future__ import annotations

from unittest.mock import Mock

import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.rows import Times


def fake_card(**fields: object) -> Card:
    """Copies a million bytes in a ms."""
    return Card(torch.device("cpu"), Mock(), **({"bytes_per_ms": 1e6, "flops_per_ms": 1e9, "is_full": True} | fields))  # type: ignore[arg-type]


def times_of(ms: float) -> Times:
    return Times((ms - 0.5, ms, ms + 0.5))
