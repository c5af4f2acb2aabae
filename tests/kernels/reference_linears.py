"""What the CPU's linears compute, in float64: closeness to it is what they promise. Names are those of the linears."""

from __future__ import annotations

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``PackedLinear``; float64 ``[num_rows, out_features]``."""
    rounded = x.to(torch.bfloat16) if weight.dtype is torch.bfloat16 else x
    out = rounded.double() @ weight.double().T
    return out if bias is None else out + bias.double()


def rounded_inputs(x: torch.Tensor, group_size: int) -> torch.Tensor:
    """What ``QuantizedLinear`` makes of ``x`` ``[num_rows, in_features]``: codes of 8 bits with one scale for each 64 inputs of a group."""
    groups = x.view(len(x), -1, group_size)
    padded = torch.nn.functional.pad(groups, (0, -group_size % 64)).view(*groups.shape[:2], -1, 64)
    largest = padded.abs().amax(-1, keepdim=True)
    is_zero = largest < 2.0**-119
    codes = (padded * (127 / largest).masked_fill(is_zero, 0.0)).round()  # ties to even
    scales = (largest / 127).masked_fill(is_zero, 0.0)
    return (codes * scales).flatten(-2)[..., :group_size].reshape(x.shape)


def quantized_linear(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """``QuantizedLinear``; float64 ``[num_rows, out_features]``."""
    exact = weight.codes.double().view(*weight.scales.shape, -1) * weight.scales.double()[..., None]
    if weight.mins is not None:
        exact += weight.mins.double()[..., None]
    return linear(rounded_inputs(x, weight.group_size), exact.view(weight.codes.shape), bias)
