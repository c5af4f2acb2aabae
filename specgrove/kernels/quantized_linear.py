"""Weight-only quantised linears: codes of 8 or 4 bits with a scale, and a minimum where they need one, per group of inputs.

weight[o, i] = scales[o, i // group_size] * codes[o, i] + mins[o, i // group_size]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from specgrove.kernels.linear import PackedLinear

_CLIPPING = torch.linspace(1.0, 0.7, 13)  # shares of a group's range that are tried


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """``codes`` is ``[out_features, in_features]``: int8 from -127 to 127, or uint8 from 0 to 15 for 4 bits.

    ``scales`` and ``mins`` (None: zeros) are float32 ``[out_features, num_groups]``; groups divide the inputs evenly.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    mins: torch.Tensor | None
    bits: int

    def __post_init__(self) -> None:
        code_dtype = {8: torch.int8, 4: torch.uint8}.get(self.bits)
        if self.codes.dtype != code_dtype:
            raise ValueError(
                f"{self.bits}-bit codes must be {code_dtype}, not {self.codes.dtype}: 8 and 4 bits are supported"
            )
        num_groups = self.scales.shape[1]
        if self.scales.shape[0] != self.out_features or num_groups < 1 or self.in_features % num_groups:
            raise ValueError(
                f"scales {tuple(self.scales.shape)} don't divide codes {tuple(self.codes.shape)} into groups"
            )
        if self.mins is not None and self.mins.shape != self.scales.shape:
            raise ValueError(f"mins {tuple(self.mins.shape)} must have the shape of scales {tuple(self.scales.shape)}")

    @property
    def out_features(self) -> int:
        """Rows."""
        return int(self.codes.shape[0])

    @property
    def in_features(self) -> int:
        """Columns."""
        return int(self.codes.shape[1])

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.in_features // int(self.scales.shape[1])

    def dequantized(self) -> torch.Tensor:
        """float32 ``[out_features, in_features]``."""
        grouped = self.codes.float().view(self.out_features, -1, self.group_size) * self.scales[:, :, None]
        if self.mins is not None:
            grouped += self.mins[:, :, None]
        return grouped.view(self.out_features, self.in_features)


def quantize(weight: torch.Tensor, bits: int, group_size: int | None = None) -> QuantizedWeight:
    """Quantises ``[out_features, in_features]``: 8 bits symmetric, 4 bits asymmetric with the clipping of least squared error.

    ``group_size`` of None takes whole rows. Raises ``ValueError`` where groups don't divide the inputs.
    """
    out_features, in_features = weight.shape
    group_size = group_size or in_features
    if in_features % group_size:
        raise ValueError(f"groups of {group_size} don't divide {in_features} inputs")
    grouped = weight.float().reshape(out_features, -1, group_size)
    if bits == 8:
        scales = (grouped.abs().amax(-1) / 127).clamp(min=1e-20)
        codes = torch.round(grouped / scales[:, :, None]).to(torch.int8)
        return QuantizedWeight(codes.view(out_features, in_features), scales, None, 8)
    if bits != 4:
        raise ValueError(f"{bits} bits are not supported, only 8 and 4")
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales, mins, least = ((high - low) / 15).clamp(min=1e-20), low, torch.full_like(low, torch.inf)
    for share in _CLIPPING:
        scale, minimum = ((high - low) * share / 15).clamp(min=1e-20), low * share
        error = (_codes(grouped, scale, minimum) * scale[:, :, None] + minimum[:, :, None] - grouped).square_().sum(-1)
        scales, mins = torch.where(error < least, scale, scales), torch.where(error < least, minimum, mins)
        least = torch.minimum(error, least)
    codes = _codes(grouped, scales, mins).to(torch.uint8)
    return QuantizedWeight(codes.view(out_features, in_features), scales, mins, 4)


def _codes(grouped: torch.Tensor, scales: torch.Tensor, mins: torch.Tensor) -> torch.Tensor:
    return grouped.sub(mins[:, :, None]).div_(scales[:, :, None]).round_().clamp_(0, 15)


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """For disk: 4-bit codes two to a byte, the first in the low half; ``[out_features, bytes]``. 8-bit codes stay."""
    if bits == 8:
        return codes
    if codes.shape[1] % 2:
        raise ValueError(f"4-bit codes need an even number of inputs, got {codes.shape[1]}")
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def unpack_codes(packed: torch.Tensor, bits: int) -> torch.Tensor:
    """What ``pack_codes`` was given."""
    if bits == 8:
        return packed
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)


class QuantizedLinear:
    """``x @ weight.T + bias`` for float32 ``x`` over a quantised weight."""

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> None:
        """``bias`` is float32 ``[out_features]``."""
        self.out_features, self.in_features = weight.out_features, weight.in_features
        self._linear = PackedLinear(weight.dequantized().to(torch.bfloat16), bias)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return self._linear.nbytes

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 ``[num_rows, in_features]`` to float32 ``[num_rows, out_features]``: into ``out`` if given, and returned."""
        return self._linear(x, out)
