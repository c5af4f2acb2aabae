"""Linears over weights of 8 or 4 bits, and how to make such weights: ``weight = scale * code + min``.

Each output has a scale, and a min if its codes are not symmetric, for every group of ``group_size`` inputs, or for all of its
inputs. Checkpoints of other formats become a ``QuantizedWeight`` by value: GGUF's Q8_0 has 8 bits and groups of 32, Q4_0 4
bits and ``mins = -8 * scales``, GPTQ ``mins = -zeros * scales``. A row's bits don't depend on how many rows there are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, check_packed, optional_address
from specgrove.kernels.linear import NativeLinear

CODE_DTYPES = {8: torch.int8, 4: torch.uint8}
MAX_CODES = {8: 127, 4: 15}
_SHRINK_FACTORS = tuple(1 - step * 0.03 for step in range(12))  # of the range of a group, for 4 bits
_MAX_HALF = 60000.0
_MIN_HALF_MEAN = 2e-4  # a third of it, about what scales are then, is a normal number of float16
_CHUNK_NUMEL = 1 << 18  # weights quantised at a time: few enough to stay in the cache


@dataclass(frozen=True, slots=True)
class QuantizedShape:
    """What the packed form of a weight depends on, beside its values."""

    bits: int
    out_features: int
    in_features: int
    group_size: int
    has_mins: bool
    has_half_scales: bool
    """Scales and mins are kept in float16."""

    def native(self) -> _native.QuantizedShape:
        """For the kernels. Raises ``ValueError`` for what they don't have."""
        if self.bits not in CODE_DTYPES:
            raise ValueError(f"bits must be 8 or 4, got {self.bits}")
        size, in_features = self.group_size, self.in_features
        if size < 1 or in_features % size or (size % 4 and size != in_features):
            raise ValueError(f"group_size must be {in_features} or a multiple of 4 that divides it, got {size}")
        return _native.QuantizedShape(
            self.bits, self.out_features, in_features, size, self.has_mins, self.has_half_scales
        )


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix of weights by value, one code per byte. Raises ``ValueError`` for shapes, types and codes that don't fit."""

    codes: torch.Tensor  # [out_features, in_features]; 8 bits: int8 in -127..127, 4 bits: uint8 in 0..15
    scales: torch.Tensor  # float32 [out_features, num_groups]
    mins: torch.Tensor | None  # float32 [out_features, num_groups]; None: all zero
    bits: int

    def __post_init__(self) -> None:
        if self.bits not in CODE_DTYPES:
            raise ValueError(f"bits must be 8 or 4, got {self.bits}")
        check(self.codes, "codes", CODE_DTYPES[self.bits], None, None)
        check(self.scales, "scales", torch.float32, self.out_features, None)
        num_groups = self.scales.shape[1]
        if num_groups == 0 or self.in_features % num_groups:
            raise ValueError(f"{num_groups} scales of an output don't divide its {self.in_features} inputs")
        if self.mins is not None:
            check(self.mins, "mins", torch.float32, self.out_features, num_groups)
        if self.codes.numel():
            lowest, highest = (int(bound) for bound in self.codes.aminmax())
            limit = MAX_CODES[self.bits]
            if lowest < -limit or highest > limit:
                raise ValueError(f"codes of {self.bits} bits must be at most {limit}, got {lowest} to {highest}")

    @property
    def out_features(self) -> int:
        """Outputs of the linear."""
        return self.codes.shape[0]

    @property
    def in_features(self) -> int:
        """Inputs of the linear."""
        return self.codes.shape[1]

    @property
    def group_size(self) -> int:
        """Inputs that share a scale."""
        return self.in_features // self.scales.shape[1]

    def shape(self) -> QuantizedShape:
        """With float16 for scales and mins where that loses nothing, as in GGUF's types of 4 bits and in our own."""
        return QuantizedShape(
            self.bits,
            self.out_features,
            self.in_features,
            self.group_size,
            self.mins is not None,
            self.mins is not None and _is_half(self.scales) and _is_half(self.mins),
        )

    def dequantized(self) -> torch.Tensor:
        """float32 ``[out_features, in_features]``."""
        weight = self.codes.view(*self.scales.shape, -1) * self.scales[..., None]
        if self.mins is not None:
            weight += self.mins[..., None]
        return weight.view(self.codes.shape)


def _is_half(values: torch.Tensor) -> bool:
    return torch.equal(values.half().float(), values)


def quantize(weight: torch.Tensor, bits: int, group_size: int | None) -> QuantizedWeight:
    """``weight`` ``[out_features, in_features]`` in groups of ``group_size`` inputs (``None``: all inputs of an output).

    8 bits are symmetric, so that the largest magnitude of a group is 127. 4 bits are asymmetric, over the part of a group's
    range, out of 12 around its middle, that gives the least squared error; scales and mins are numbers of float16, but for
    weights so large or so small that this would cost precision.
    """
    out_features, in_features = weight.shape
    group_size = in_features if group_size is None else group_size
    if bits not in CODE_DTYPES:
        raise ValueError(f"bits must be 8 or 4, got {bits}")
    if group_size < 1 or in_features % group_size:
        raise ValueError(f"group_size must divide the {in_features} inputs, got {group_size}")
    codes = torch.empty(out_features, in_features // group_size, group_size, dtype=CODE_DTYPES[bits])
    scales, mins = torch.empty(2, *codes.shape[:2])
    quantize_groups = _quantize8 if bits == 8 else functools.partial(_quantize4, to_half=_suits_half(weight))
    num_rows = max(1, _CHUNK_NUMEL // in_features)
    for start in range(0, out_features, num_rows):
        rows = slice(start, start + num_rows)
        groups = weight[rows].float().view(-1, *codes.shape[1:])
        codes[rows], scales[rows], mins[rows] = quantize_groups(groups)
    if not scales.isfinite().all():
        raise ValueError("weights must be finite")
    return QuantizedWeight(codes.view(out_features, in_features), scales, mins if bits == 4 else None, bits)


def _quantize8(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scales = groups.abs().amax(-1) / MAX_CODES[8]
    return (groups * _inverse(scales)[..., None]).round_(), scales, torch.zeros_like(scales)


def _suits_half(weight: torch.Tensor) -> bool:
    lowest, highest = (bound.item() for bound in weight.aminmax())
    mean = torch.linalg.vector_norm(weight, 1, dtype=torch.float32).item() / weight.numel()
    return max(-lowest, highest) < _MAX_HALF and mean > _MIN_HALF_MEAN


def _quantize4(groups: torch.Tensor, to_half: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lowest, highest = groups.aminmax(dim=-1)
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    best = [torch.zeros_like(groups), *torch.full((2, *middle.shape), torch.nan)]  # kept where weights aren't finite
    best_error = torch.full_like(middle, torch.inf)
    for factor in _SHRINK_FACTORS:
        scales, mins = 2 * factor / MAX_CODES[4] * half, middle - factor * half
        if to_half:
            scales, mins = scales.half().float(), mins.half().float()
        codes = (groups - mins[..., None]).mul_(_inverse(scales)[..., None]).round_().clamp_(0, MAX_CODES[4])
        error = torch.addcmul(mins[..., None], codes, scales[..., None]).sub_(groups).square_().sum(-1)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        for kept, found in zip(best, (codes, scales, mins), strict=True):
            torch.where(is_better[..., None] if found is codes else is_better, found, kept, out=kept)
    codes, scales, mins = best
    return codes, scales, mins


def _inverse(scales: torch.Tensor) -> torch.Tensor:
    """Zero where all weights of a group are one number: their codes are zero."""
    return torch.where(scales == 0, 0.0, 1 / scales)


def pack_codes(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes ``[out_features, in_features]`` as uint8 for the disk: two of 4 bits in a byte, the first in its lower half."""
    check(codes, "codes", CODE_DTYPES[bits], None, None)
    if bits == 8:
        return codes.view(torch.uint8)
    padded = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
    return padded[:, ::2] | padded[:, 1::2] << 4


def unpack_codes(packed: torch.Tensor, bits: int, in_features: int) -> torch.Tensor:
    """What ``pack_codes`` was given."""
    check(packed, "packed", torch.uint8, None, -(-in_features * bits // 8))
    if bits == 8:
        return packed.view(torch.int8)
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)[:, :in_features].contiguous()


class QuantizedLinear(NativeLinear):
    """``x @ weight.T + bias`` for float32 ``x``, which is rounded to 8 bits, with one scale for each 64 inputs of a group.

    Products of codes are added up exactly as integers, chunks and groups in float32.
    """

    def __init__(
        self, weight: QuantizedWeight, bias: torch.Tensor | None = None, *, has_half_scales: bool | None = None
    ) -> None:
        """``bias`` is float32 ``[out_features]``. Packs a copy of the weight: ``has_half_scales`` is given where it is a part of one."""
        shape = weight.shape()
        if has_half_scales is not None:
            shape = replace(shape, has_half_scales=has_half_scales)
        self._set_up(
            shape,
            _native.QuantizedLinear(
                shape.native(),
                weight.codes.data_ptr(),
                weight.scales.data_ptr(),
                optional_address(weight.mins, "mins", *weight.scales.shape),
                optional_address(bias, "bias", weight.out_features),
            ),
            None,
        )

    @classmethod
    def from_packed(
        cls,
        packed: torch.Tensor,
        shape: QuantizedShape,
        bias: torch.Tensor | None = None,
    ) -> QuantizedLinear:
        """Over the bytes that ``packed()`` of a linear of the same shape gave: a view of them, which must not change."""
        native_shape = shape.native()
        check_packed(packed, native_shape.nbytes)
        native = _native.QuantizedLinear.from_packed(
            native_shape, packed.data_ptr(), optional_address(bias, "bias", shape.out_features)
        )
        linear = cls.__new__(cls)
        linear._set_up(shape, native, packed)
        return linear

    def _set_up(self, shape: QuantizedShape, native: _native.QuantizedLinear, viewed: torch.Tensor | None) -> None:
        self.out_features, self.in_features = shape.out_features, shape.in_features
        self._native, self._viewed = native, viewed  # viewed: kept alive for as long as the native object reads it
