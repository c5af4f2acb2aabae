"""AWQ (arXiv 2306.00978) as AutoAWQ stores it for its "gemm" kernels: ``qweight``, ``qzeros`` and ``scales``, 4 bits.

``qweight`` is int32 ``[in_features, out_features / 8]`` and ``qzeros`` ``[num_groups, out_features / 8]``. The i-th nibble of a word, from
the lowest, belongs to output ``_ORDER[i]`` of the word's eight.
Source: https://github.com/casper-hansen/AutoAWQ/blob/main/awq/modules/linear/gemm.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from specgrove.models.decoder.parameters import Weight
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.formats.stored import (
    StoredTensors,
    bounds,
    check_scales,
    from_zero_points,
    groups_of,
    matrix_shape,
)

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


class AwqFormat:
    """See ``WeightFormat``."""

    def __init__(self, config: Mapping[str, Any], stored: StoredTensors) -> None:
        """Raises ``UnsupportedModelError``."""
        bits = config.get("bits", config.get("w_bit", 4))
        version = str(config.get("version", "gemm")).lower()
        if bits != 4 or version != "gemm" or not config.get("zero_point", True):
            raise UnsupportedModelError(
                f"AWQ of {bits} bits in version {version}, zero_point={config.get('zero_point', True)}, is not "
                "supported, only 4 bits in version gemm with zero points"
            )
        self._stored = stored

    def holds(self, name: str) -> bool:
        """See ``WeightFormat``."""
        return name.endswith(".weight") and self._stored.stores(name.removesuffix(".weight") + ".qweight")

    def parts_of(self, name: str) -> tuple[str, ...]:
        """See ``WeightFormat``."""
        return tuple(name.removesuffix("weight") + part for part in ("qweight", "qzeros", "scales"))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``WeightFormat``."""
        stem = name.removesuffix(".weight")
        in_features, num_words = matrix_shape(self._stored, stem + ".qweight")
        num_groups, num_outputs = matrix_shape(self._stored, stem + ".scales")
        zeros_shape = matrix_shape(self._stored, stem + ".qzeros")
        if num_outputs != num_words * 8 or zeros_shape != (num_groups, num_words):
            raise UnsupportedModelError(
                f"{stem}: scales of the shape {[num_groups, num_outputs]} and qzeros of {list(zeros_shape)} don't go with qweight of "
                f"{[in_features, num_words]}: it is not AWQ's layout"
            )
        return num_outputs, in_features

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``WeightFormat``."""
        stored, stem = self._stored, name.removesuffix(".weight")
        out_features, in_features = self.shape_of(name)
        outputs = bounds(rows, out_features)
        wanted = bounds(columns, in_features)
        groups = groups_of(name, wanted, in_features, stored.shape_of(stem + ".scales")[0])
        words = slice(outputs.start // 8, -(-outputs.stop // 8))
        first = outputs.start - words.start * 8
        own = slice(first, first + len(outputs))
        codes = _unpacked(stored.read(stem + ".qweight", columns, words))[:, own]
        zeros = _unpacked(stored.read(stem + ".qzeros", groups, words))[:, own]
        scales = stored.read(stem + ".scales", groups, rows)
        check_scales(name, scales)
        return from_zero_points(codes.T.contiguous(), zeros.T, scales.T, 4)


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """int32 ``[n, num_words]`` to uint8 ``[n, 8 * num_words]``."""
    codes = torch.empty((*words.shape, 8), dtype=torch.uint8)
    for i, output in enumerate(_ORDER):
        codes[..., output] = words >> (4 * i) & 15
    return codes.flatten(1)
