"""What a format reads from and what it offers, and the rule about slices that all formats share.

Invariant: a slice of columns (tensor parallel) is whole groups, or lies in the only group there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.parameters import Weight
from specgrove.models.errors import UnsupportedModelError


class StoredTensors(Protocol):
    """Tensors as they lie on disk."""

    def stores(self, name: str) -> bool:
        """Whether there is such a tensor."""
        ...

    def names(self) -> Sequence[str]:
        """The names of all tensors."""
        ...

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Without reading it. Raises ``UnsupportedModelError`` that names what is missing."""
        ...

    def read(self, name: str, *slices: slice) -> torch.Tensor:
        """Some of it. Raises ``UnsupportedModelError`` that names what is missing."""
        ...


class WeightFormat(Protocol):
    """One way to store a linear's weight. Names are those of the plain tensors, ``…q_proj.weight``."""

    def holds(self, name: str) -> bool:
        """Whether this weight is stored so; others are plain tensors."""
        ...

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Its outputs and inputs."""
        ...

    def parts_of(self, name: str) -> tuple[str, ...]:
        """The tensors that make it up."""
        ...

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """Part of it. Raises ``UnsupportedModelError``."""
        ...


def bounds(part: slice, size: int) -> range:
    """The indices that a slice stands for."""
    return range(*part.indices(size))


def groups_of(name: str, columns: range, in_features: int, num_groups: int) -> slice:
    """The groups that cover ``columns``. Raises ``UnsupportedModelError`` where they don't exactly."""
    if num_groups < 1 or in_features % num_groups:
        raise UnsupportedModelError(f"{name}: {num_groups} groups don't divide {in_features} inputs")
    if num_groups == 1:
        return slice(0, 1)
    group_size = in_features // num_groups
    if columns.start % group_size or columns.stop % group_size:
        raise UnsupportedModelError(
            f"{name}: a rank's inputs, {columns.start} to {columns.stop - 1} of {in_features}, are not whole groups of "
            f"{group_size}: use fewer tensor-parallel ranks, or a checkpoint of smaller groups or without quantisation"
        )
    return slice(columns.start // group_size, columns.stop // group_size)


def matrix_shape(stored: StoredTensors, name: str) -> tuple[int, int]:
    """Rows and columns. Raises ``UnsupportedModelError`` for what is no matrix."""
    shape = stored.shape_of(name)
    if len(shape) != 2:
        raise UnsupportedModelError(f"{name} has the shape {list(shape)}, it should have two dimensions")
    return shape[0], shape[1]


def check_scales(name: str, scales: torch.Tensor) -> None:
    """Raises ``UnsupportedModelError`` where they would make weights that are no numbers."""
    if not scales.isfinite().all():
        raise UnsupportedModelError(
            f"the scales of {name} hold NaN or infinity: fetch the checkpoint again, or take another"
        )


def from_zero_points(codes: torch.Tensor, zeros: torch.Tensor, scales: torch.Tensor, bits: int) -> Weight:
    """``scale * (code - zero)`` without a change of value.

    ``codes`` is uint8 ``[out_features, in_features]``, ``zeros`` and ``scales`` are ``[out_features, num_groups]``. Codes of 8 bits become
    signed, which leaves 255 of the 256: where a group has them all, the weight is returned dequantised.
    """
    scales, zeros = scales.float().contiguous(), zeros.float()
    if bits == 4:
        return QuantizedWeight(codes.contiguous(), scales, (-zeros * scales).contiguous(), 4)
    groups = codes.view(*scales.shape, -1)
    lowest, highest = groups.aminmax(dim=-1)
    if bool(((lowest == 0) & (highest == 255)).any()):
        return ((groups.float() - zeros[..., None]) * scales[..., None]).view(codes.shape)
    offsets = torch.where(lowest == 0, 127, 128).to(torch.int16)
    signed = (groups.to(torch.int16) - offsets[..., None]).to(torch.int8).view(codes.shape)
    return QuantizedWeight(signed, scales, ((offsets - zeros) * scales).contiguous(), 8)
