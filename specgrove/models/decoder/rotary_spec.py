"""Rotary positions as data: the base of the wavelengths and how they are scaled. Imports no torch: a spec is read without it.

Made by ``specgrove.models.decoder.rope_config``; ``specgrove.models.decoder.rotary`` makes tables of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by ``factor`` (arXiv 2306.15595)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1's: long wavelengths divided by ``factor``, short ones kept, a ramp between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): a ramp by dimension between kept and divided frequencies, and a factor on the logits."""

    factor: float
    original_max_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncates: bool


Scaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, slots=True)
class RotarySpec:
    """``theta`` is the base of the wavelengths."""

    theta: float
    scaling: Scaling | None = None


def yarn_mscale(factor: float, mscale: float) -> float:
    """The factor on logits, before they are squared."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
