"""Weights of 8 bits, floats or whole numbers, with scales beside them: ``<stem>.weight`` and ``<stem>.weight_scale`` (or ``_inv``).

Written by ModelOpt, compressed-tensors, FBGEMM, DeepSeek and others, with or without a word in ``config.json``. A value is code times
scale; there is one scale for all, one for each output, or one for each block. Floats are dequantised, since no kernel takes them; whole
numbers with one scale for each output stay as they are. Scales of activations are not needed: those stay in 16 bits here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.decoder.parameters import Weight
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.formats.stored import StoredTensors, check_scales, matrix_shape

METHODS = ("", "fp8", "modelopt", "compressed-tensors", "fbgemm_fp8", "quark")
"""The ``quant_method`` that such checkpoints have; some have none."""
_SUFFIXES = (".weight_scale_inv", ".weight_scale")
_DEFAULT_BLOCK = 128  # DeepSeek's, where config.json doesn't say
_INT8 = torch.int8
_EXPONENT_OF_ONE, _NO_NUMBER = 127, 255  # of E8M0


class ScaledFormat:
    """See ``WeightFormat``."""

    def __init__(self, config: Mapping[str, Any], stored: StoredTensors) -> None:
        block = config.get("weight_block_size")
        self._block = tuple(block) if isinstance(block, list) and len(block) == 2 else None
        self._stored = stored

    @staticmethod
    def is_in(names: Collection[str]) -> bool:
        """Whether any weight is stored so."""
        return any(name.endswith(_SUFFIXES) for name in names)

    @staticmethod
    def codes_in(stored: StoredTensors) -> str | None:
        """A weight that holds 8 bits; ``None`` where there is none."""
        weights = (name for name in stored.names() if name.endswith(".weight") and len(stored.shape_of(name)) == 2)
        return next((name for name in weights if stored.read(name, slice(0, 1)).dtype.itemsize == 1), None)

    def holds(self, name: str) -> bool:
        """See ``WeightFormat``."""
        return name.endswith(".weight") and self._stored.stores(name) and self._scale_name(name) is not None

    def parts_of(self, name: str) -> tuple[str, ...]:
        """See ``WeightFormat``."""
        stem = name.removesuffix(".weight")
        return (
            name,
            *(stem + suffix for suffix in (*_SUFFIXES, ".weight_shape") if self._stored.stores(stem + suffix)),
        )

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``WeightFormat``."""
        return self._stored.shape_of(name)

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``WeightFormat``."""
        matrix_shape(self._stored, name)
        codes = self._stored.read(name, rows, columns)
        if codes.dtype.itemsize != 1 or (codes.dtype != _INT8 and not codes.is_floating_point()):
            raise UnsupportedModelError(
                f"{name} has scales beside it and holds {codes.dtype}: only float8 and int8 are read"
            )
        scales = self._scales(name, rows, columns)
        check_scales(name, scales)
        if codes.dtype == _INT8 and scales.shape[1] == 1 and int(codes.min()) > -128:  # the kernels have 255 codes
            return QuantizedWeight(codes.contiguous(), scales.expand(codes.shape[0], 1).contiguous(), None, 8)
        return codes.float() * scales

    def _scale_name(self, name: str) -> str | None:
        stem = name.removesuffix(".weight")
        found = [stem + suffix for suffix in _SUFFIXES if self._stored.stores(stem + suffix)]
        if len(found) > 1:
            raise UnsupportedModelError(f"{name} has both {' and '.join(found)} beside it: which of them counts?")
        return found[0] if found else None

    def _scales(self, name: str, rows: slice, columns: slice) -> torch.Tensor:
        """float32, as many rows and columns as the part has, or one for all."""
        scale_name = self._scale_name(name)
        assert scale_name is not None
        scales, shape = _floats(scale_name, self._stored.read(scale_name)), self._stored.shape_of(name)
        if scales.numel() == 1:
            return scales.view(1, 1)
        if scales.ndim == 1:
            scales = scales[:, None]
        if scales.ndim != 2:
            raise UnsupportedModelError(
                f"{scale_name} has the shape {list(scales.shape)}, it should have two dimensions"
            )
        row_of = self._places(scale_name, 0, scales.shape[0], shape[0])[rows]
        if scales.shape[1] == 1:
            return scales[row_of]
        return scales[row_of][:, self._places(scale_name, 1, scales.shape[1], shape[1])[columns]]

    def _places(self, scale_name: str, dimension: int, num_scales: int, size: int) -> torch.Tensor:
        """Which scale each row or column has; blocks at the end may be cut off."""
        if num_scales == size:
            return torch.arange(size)
        said = self._block[dimension] if self._block is not None else None
        for block in (said, _DEFAULT_BLOCK, size // num_scales if size % num_scales == 0 else None):
            if isinstance(block, int) and block > 0 and -(-size // block) == num_scales:
                return torch.arange(size) // block
        raise UnsupportedModelError(
            f"{scale_name} has {num_scales} scales for {size} {('outputs', 'inputs')[dimension]}, which no size of blocks explains"
        )


def _floats(scale_name: str, scales: torch.Tensor) -> torch.Tensor:
    """Scales as numbers. Whole numbers of other types than bytes mean nothing that is known."""
    if scales.dtype == torch.uint8:
        powers = torch.exp2(scales.float() - _EXPONENT_OF_ONE)
        return powers.masked_fill(scales == _NO_NUMBER, torch.nan)
    if not scales.is_floating_point():
        raise UnsupportedModelError(
            f"{scale_name} holds {scales.dtype}: only floats are read, and bytes as MXFP8 has them"
        )
    return scales.float()
