"""Linears by torch's own matrix products: in float64 what kernels are tested against, else what runs where there are none for the device.

Rows are multiplied in tiles of one fixed number of rows: the library then runs one and the same kernel, so that a row's bits don't depend
on how many rows there are. A linear's tensors may be moved while it is not in use: offloading keeps them elsewhere.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from specgrove.kernels.device_memory import EXPANDED_AT_ONCE
from specgrove.kernels.quantized_linear import QuantizedWeight, pack_codes

_TILE_ROWS = 32


class TorchLinear:
    """``x @ weight.T + bias``: ``x`` is rounded to the weight's dtype, and so is the product unless ``x`` has float64."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        """``weight`` is ``[out_features, in_features]``; ``bias`` float32 ``[out_features]``, where the linear will run."""
        self.out_features, self.in_features = weight.shape
        self.parts: tuple[torch.Tensor, ...] = (weight.contiguous(),)
        """The tensors that may lie elsewhere between two uses."""
        self._bias = bias

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, with scales and mins where there are any."""
        return sum(part.nbytes for part in self.parts)

    def weight(self) -> torch.Tensor:
        """``[out_features, in_features]``, as it is multiplied."""
        return self.parts[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``[num_rows, in_features]`` to ``[num_rows, out_features]``, float64 if ``x`` is and else float32."""
        num_rows = x.shape[0]
        if num_rows == 0:
            return x.new_empty(0, self.out_features)
        transposed = self.weight().t()
        padded = functional.pad(x, (0, 0, 0, -num_rows % _TILE_ROWS)).to(transposed.dtype)
        if x.dtype is torch.float64:
            padded, transposed = padded.double(), transposed.double()
        tiles = [padded[row : row + _TILE_ROWS] @ transposed for row in range(0, num_rows, _TILE_ROWS)]
        out = torch.cat(tiles)[:num_rows].to(torch.promote_types(x.dtype, torch.float32))
        return out if self._bias is None else out + self._bias


class TorchQuantizedLinear(TorchLinear):
    """Weights of 8 or 4 bits, which are expanded to ``dtype`` for every use: what is kept, and copied, is the compressed form."""

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """``bias`` is float32 ``[out_features]``, where the linear will run."""
        self.out_features, self.in_features = weight.out_features, weight.in_features
        packed = pack_codes(weight.codes, weight.bits)
        self.parts = (packed, weight.scales) if weight.mins is None else (packed, weight.scales, weight.mins)
        self._bias, self._bits, self._dtype = bias, weight.bits, dtype

    def weight(self) -> torch.Tensor:
        """``[out_features, in_features]`` in ``dtype``."""
        packed = self.parts[0]
        expanded = torch.empty(self.out_features, self.in_features, dtype=self._dtype, device=packed.device)
        num_rows = max(1, EXPANDED_AT_ONCE // self.in_features)
        for start in range(0, self.out_features, num_rows):
            rows = slice(start, start + num_rows)
            expanded[rows] = self._expanded(*(part[rows] for part in self.parts))
        return expanded

    def _expanded(self, packed: torch.Tensor, scales: torch.Tensor, *mins: torch.Tensor) -> torch.Tensor:
        """float32, of some outputs."""
        if self._bits == 8:
            codes = packed.view(torch.int8)
        else:
            codes = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)[:, : self.in_features]
        groups = codes.reshape(*scales.shape, -1) * scales[..., None]
        if mins:
            groups += mins[0][..., None]
        return groups.view(-1, self.in_features)
