"""Rotary position embedding (arXiv 2104.09864): its frequencies, and the table the kernels read, of a ``RotarySpec``.

Used by the decoder. The formulas are those of transformers' ``modeling_rope_utils``, in float32 as there, so that long
positions agree with it.
"""

from __future__ import annotations

import math

import torch

from specgrove.models.decoder.rotary_spec import LinearScaling, Llama3Scaling, RotarySpec, YarnScaling


def cos_sin_table(rotary: RotarySpec, head_dim: int, max_positions: int) -> torch.Tensor:
    """Cosines, then sines, of every position's angles: float32 ``[max_positions, head_dim]``."""
    frequencies = frequencies_of(rotary, head_dim)
    angles = torch.arange(max_positions).float()[:, None] * frequencies
    table = torch.cat([angles.cos(), angles.sin()], dim=1)
    if isinstance(rotary.scaling, YarnScaling):
        table *= rotary.scaling.attention_factor
    return table.contiguous()


def frequencies_of(rotary: RotarySpec, head_dim: int) -> torch.Tensor:
    """Angle per position of each pair of dimensions: float32 ``[head_dim / 2]``."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequencies: torch.Tensor = 1.0 / rotary.theta**exponents
    scaling = rotary.scaling
    if scaling is None:
        return frequencies
    if isinstance(scaling, LinearScaling):
        return frequencies / scaling.factor
    if isinstance(scaling, Llama3Scaling):
        return _llama3_frequencies(frequencies, scaling)
    return _yarn_frequencies(rotary.theta**exponents, rotary.theta, head_dim, scaling)


def _llama3_frequencies(frequencies: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    low_wavelength = scaling.original_max_positions / scaling.low_freq_factor
    high_wavelength = scaling.original_max_positions / scaling.high_freq_factor
    wavelengths = 2 * math.pi / frequencies
    divided = torch.where(wavelengths > low_wavelength, frequencies / scaling.factor, frequencies)
    ramp = (scaling.original_max_positions / wavelengths - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    smoothed = (1 - ramp) * divided / scaling.factor + ramp * divided
    is_between = ~(wavelengths < high_wavelength) & ~(wavelengths > low_wavelength)
    return torch.where(is_between, smoothed, divided)


def _yarn_frequencies(wavelengths: torch.Tensor, theta: float, head_dim: int, scaling: YarnScaling) -> torch.Tensor:
    def dimension_of(num_rotations: float) -> float:
        turns = scaling.original_max_positions / (num_rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast), dimension_of(scaling.beta_slow)
    if scaling.truncates:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(head_dim // 2).float() - low) / (high - low)).clamp(0, 1)
    kept = 1 - ramp
    return 1.0 / (scaling.factor * wavelengths) * (1 - kept) + 1.0 / wavelengths * kept
