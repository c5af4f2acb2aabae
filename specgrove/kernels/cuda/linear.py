"""Linears over weights of 4, 8 or 16 bits, packed once in the order in which the kernel reads them; made for 1 to 64 rows.

Only weights are quantised: a code counts as itself, scales and mins are applied in float32. A row's bits don't depend on how many rows
there are: how the inputs are cut into slices depends on the linear's shape only. More rows go in tiles of 64, side by side.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from specgrove.kernels.checks import check
from specgrove.kernels.cuda.backend import backend, dtype_of, num_processors
from specgrove.kernels.device_memory import ENOUGH_LINEAR_BLOCKS, LINEAR_BLOCK, LINEAR_MAX_ROWS, LINEAR_MAX_TILES
from specgrove.kernels.quantized_linear import QuantizedWeight

_CHUNK, _WARPS = 64, 4  # as in csrc/cuda/{small_linear,linear_products}.{h,cuh}
_MIN_CHUNKS_PER_WARP = 4
_MAX_SPLITS = 16
# The bits of an output's number: block of 32, tile of 16, plus 8, row of the mma; of an input's: chunk of 64, half of it, lane of a quad,
# step, pair of the lane's two, part of the pair.
_AXES = ["block", "tile", "plus8", "row", "chunk", "half", "quad", "step", "pair", "part"]
_SIZES = (2, 2, 8), (2, 4, 2, 2, 2)
_ORDERS = {
    16: ["block", "chunk", "tile", "half", "step", "row", "quad", "pair", "plus8", "part"],
    8: ["block", "chunk", "tile", "half", "row", "quad", "step", "pair", "part", "plus8"],
    4: ["block", "chunk", "tile", "row", "quad", "half", "step", "part", "pair", "plus8"],
}


class LinearWorkspace:
    """Where blocks that share outputs leave their parts of the sums. Linears that share one must run on one stream."""

    def __init__(self, device: torch.device) -> None:
        """Grows as linears are made, so not while a graph that uses it is captured or kept."""
        self.partials = torch.empty(0, device=device)
        self.counters = torch.zeros(0, dtype=torch.int32, device=device)

    def reserve(self, num_blocks: int, num_splits: int) -> None:
        """Makes room for a linear."""
        num_blocks *= LINEAR_MAX_TILES if num_splits > 1 else 0
        num_partials = num_blocks * num_splits * LINEAR_BLOCK * LINEAR_MAX_ROWS
        if self.partials.numel() < num_partials:
            self.partials = self.partials.new_empty(num_partials)
        if self.counters.numel() < num_blocks:
            self.counters = self.counters.new_zeros(num_blocks)


def can_pack(weight: torch.Tensor | QuantizedWeight) -> bool:
    """Whether ``PackedDeviceLinear`` takes the weight: groups of inputs with a scale must be whole rows or multiples of 16."""
    return not isinstance(weight, QuantizedWeight) or weight.scales.shape[1] == 1 or weight.group_size % 16 == 0


class PackedDeviceLinear:
    """``x @ weight.T + bias``, for rows of float16 or bfloat16, or float32 that is rounded; sums, bias and outputs are float32."""

    def __init__(
        self,
        weight: torch.Tensor | QuantizedWeight,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        device: torch.device,
        workspace: LinearWorkspace | None = None,
        *,
        processors: int | None = None,
    ) -> None:
        """``weight`` is ``[out_features, in_features]``, rounded to ``dtype`` (that of the rows) unless it is quantised; ``bias`` float32.
        ``processors`` are those of the device unless given; they change no bit.

        Raises ``ValueError`` for other dtypes than float16 and bfloat16, and for groups that are neither whole rows nor multiples of 16.
        """
        if dtype not in (torch.float16, torch.bfloat16):
            raise ValueError(f"dtype must be float16 or bfloat16, got {dtype}")
        values = weight.codes if isinstance(weight, QuantizedWeight) else weight
        self.out_features, self.in_features = values.shape
        if bias is not None:
            check(bias, "bias", torch.float32, self.out_features)
        self._dtype = dtype
        self._bits = weight.bits if isinstance(weight, QuantizedWeight) else 16
        self._has_mins = self._has_half_scales = False
        self._group_size, self._num_groups = _CHUNK, 1
        values = values.to(device)  # first: a card permutes them at once, the host with one thread
        packed = _pack(values if isinstance(weight, QuantizedWeight) else values.to(dtype), self._bits)
        self.parts: tuple[torch.Tensor, ...] = (packed,)
        """The tensors that may lie elsewhere between two uses."""
        if isinstance(weight, QuantizedWeight):
            self._num_groups = weight.scales.shape[1]
            self._group_size = weight.group_size if self._num_groups > 1 else _padded(self.in_features, _CHUNK)
            if not can_pack(weight):
                raise ValueError(f"group_size must be {self.in_features} or a multiple of 16, got {self._group_size}")
            shape = weight.shape()
            self._has_mins, self._has_half_scales = shape.has_mins, shape.has_half_scales
            self.parts = (packed, _pack_scales(weight, self._has_half_scales, device))
        self._bias = None if bias is None else bias.to(device)
        num_blocks = -(-self.out_features // LINEAR_BLOCK)
        self._num_splits = _num_splits(num_blocks, -(-self.in_features // _CHUNK))
        self._num_processors = num_processors(device) if processors is None else processors
        self._workspace = LinearWorkspace(device) if workspace is None else workspace
        self._workspace.reserve(num_blocks, self._num_splits)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights, with scales and mins where there are any."""
        return sum(part.nbytes for part in self.parts)

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``[num_rows, in_features]`` of the linear's dtype to float32 ``[num_rows, out_features]``, which is returned.

        Copies ``x`` where ``in_features`` is no multiple of 8 (the kernel reads 16 bytes at a time), and where it is float32.
        """
        num_rows = x.shape[0]
        if x.dtype == torch.float32:
            x = x.to(self._dtype)
        check(x, "x", self._dtype, num_rows, self.in_features)
        if out is None:
            out = torch.empty(num_rows, self.out_features, device=x.device)
        check(out, "out", torch.float32, num_rows, self.out_features)
        if num_rows == 0:
            return out
        if self.in_features % 8:
            x = functional.pad(x, (0, -self.in_features % 8))
        if x.data_ptr() % 16:
            raise ValueError("x must start at a multiple of 16 bytes")
        module, stream = backend(x, out, *self.parts)
        module.small_linear(
            x=x.data_ptr(),
            weight=self.parts[0].data_ptr(),
            scales=self.parts[1].data_ptr() if len(self.parts) > 1 else 0,
            bias=0 if self._bias is None else self._bias.data_ptr(),
            out=out.data_ptr(),
            partials=self._workspace.partials.data_ptr(),
            counters=self._workspace.counters.data_ptr(),
            num_rows=num_rows,
            in_features=x.shape[1],
            out_features=self.out_features,
            group_size=self._group_size,
            num_groups=self._num_groups,
            num_splits=self._num_splits,
            num_processors=self._num_processors,
            bits=self._bits,
            has_mins=self._has_mins,
            has_half_scales=self._has_half_scales,
            dtype=dtype_of(module, x),
            stream=stream,
        )
        return out


def _padded(size: int, multiple: int) -> int:
    return size + -size % multiple


def _num_splits(num_blocks: int, num_chunks: int) -> int:
    """A function of the shape only, for the same bits on any device."""
    num_splits = 1
    while (
        num_blocks * num_splits < ENOUGH_LINEAR_BLOCKS
        and num_splits < _MAX_SPLITS
        and num_chunks >= 2 * num_splits * _WARPS * _MIN_CHUNKS_PER_WARP
    ):
        num_splits *= 2
    return num_splits


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights or codes ``[out_features, in_features]`` as uint8, each block's, chunk's and lane's together, with zeros around."""
    out_features, in_features = values.shape
    padding = (0, -in_features % _CHUNK, 0, -out_features % LINEAR_BLOCK)
    padded = functional.pad(values, padding) if any(padding) else values  # which else would be copied too
    blocks = padded.view(padded.shape[0] // LINEAR_BLOCK, *_SIZES[0], padded.shape[1] // _CHUNK, *_SIZES[1])
    ordered = blocks.permute([_AXES.index(axis) for axis in _ORDERS[bits]]).contiguous().view(-1)
    if bits == 4:
        return ordered[::2] | ordered[1::2] << 4
    return ordered.view(torch.uint8)


def _pack_scales(weight: QuantizedWeight, has_half_scales: bool, device: torch.device) -> torch.Tensor:
    """``[block, group, row of the mma, scale or min, 4 outputs 8 apart]``: what a lane needs lies together."""
    kinds = [weight.scales] if weight.mins is None else [weight.scales, weight.mins]
    stacked = torch.stack([kind.to(device) for kind in kinds])
    padded = functional.pad(stacked, (0, 0, 0, -weight.out_features % LINEAR_BLOCK))
    blocks = padded.view(len(kinds), -1, 4, 8, padded.shape[-1]).permute(1, 4, 3, 0, 2).contiguous()
    return blocks.half() if has_half_scales else blocks
