"""GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel store it: ``qweight``, ``qzeros``, ``scales`` and ``g_idx``, 4 or 8 bits.

``qweight`` is int32 ``[in_features / n, out_features]`` with the codes of n = 32 / bits inputs in a word, the first in the lowest bits;
``qzeros`` is ``[num_groups, out_features / n]``, packed along the outputs. The first version of the format stores zeros less one.
Source: https://github.com/AutoGPTQ/AutoGPTQ/blob/main/auto_gptq/nn_modules/qlinear/qlinear_cuda.py
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

_ALL = slice(None)


class GptqFormat:
    """See ``WeightFormat``. Bits are told by the tensors' shapes: a checkpoint may have other bits for some modules."""

    def __init__(self, config: Mapping[str, Any], stored: StoredTensors) -> None:
        """Raises ``UnsupportedModelError``."""
        if (bits := config.get("bits", 4)) not in (4, 8):
            raise UnsupportedModelError(f"GPTQ of {bits!r} bits is not supported, only 4 and 8")
        version = config.get("checkpoint_format") or "gptq"
        if version not in ("gptq", "gptq_v2") or config.get("is_marlin_format"):
            raise UnsupportedModelError(f"GPTQ in the {version} layout is not supported, only gptq and gptq_v2")
        self._zero_offset = 1 if version == "gptq" else 0
        self._is_symmetric = config.get("sym")
        self._stored = stored
        if (first := next((name for name in stored.names() if name.endswith(".qzeros")), None)) is not None:
            self._check_module(first.removesuffix(".qzeros"))

    def _check_module(self, stem: str) -> None:
        """Checks the zeros of one module and the order of its inputs, before anything is loaded."""
        bits = self._bits_of(stem)
        self._offset_of(stem, _unpacked(self._stored.read(stem + ".qzeros").T, bits), bits)
        self._check_order(stem, self.shape_of(stem)[1], self._stored.shape_of(stem + ".scales")[0])

    def holds(self, name: str) -> bool:
        """See ``WeightFormat``."""
        return name.endswith(".weight") and self._stored.stores(_stem(name) + ".qweight")

    def parts_of(self, name: str) -> tuple[str, ...]:
        """See ``WeightFormat``."""
        parts = (f"{_stem(name)}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx"))
        return tuple(part for part in parts if self._stored.stores(part))

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``WeightFormat``."""
        num_words, out_features = matrix_shape(self._stored, _stem(name) + ".qweight")
        return out_features, num_words * 32 // self._bits_of(_stem(name))

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``WeightFormat``."""
        stored, stem = self._stored, _stem(name)
        bits = self._bits_of(stem)
        codes_per_word = 32 // bits
        out_features, in_features = self.shape_of(name)
        num_groups = stored.shape_of(stem + ".scales")[0]
        self._check_order(stem, in_features, num_groups)
        wanted, outputs = bounds(columns, in_features), bounds(rows, out_features)
        groups = groups_of(name, wanted, in_features, num_groups)
        words = slice(wanted.start // codes_per_word, -(-wanted.stop // codes_per_word))
        codes = _unpacked(stored.read(stem + ".qweight", words, rows), bits).flatten(0, 1)
        scales = stored.read(stem + ".scales", groups, rows).T
        check_scales(name, scales)
        first = wanted.start - words.start * codes_per_word
        zeros = _unpacked(stored.read(stem + ".qzeros", groups, _ALL).T, bits).flatten(0, 1)
        return from_zero_points(
            codes[first : first + len(wanted)].T.contiguous(),
            zeros[outputs.start : outputs.stop].to(torch.int16) + self._offset_of(stem, zeros, bits),
            scales,
            bits,
        )

    def _bits_of(self, stem: str) -> int:
        num_groups, num_words = matrix_shape(self._stored, stem + ".qzeros")
        scales_shape = matrix_shape(self._stored, stem + ".scales")
        out_features = matrix_shape(self._stored, stem + ".qweight")[1]
        bits = 32 * num_words / out_features
        if scales_shape != (num_groups, out_features) or bits not in (4, 8):
            raise UnsupportedModelError(
                f"{stem}: GPTQ of {bits:g} bits with scales of the shape {list(scales_shape)} is not supported, only 4 and 8 bits"
            )
        return int(bits)

    def _offset_of(self, stem: str, zeros: torch.Tensor, bits: int) -> int:
        """Added to the zeros as they are stored. A symmetric quantisation has its zeros in the middle, which tells what was stored."""
        middle = 1 << (bits - 1)
        least, most = int(zeros.min()), int(zeros.max())
        if self._is_symmetric is False:
            return self._zero_offset
        if least == most and middle - least in (0, 1):
            return middle - least
        if self._is_symmetric is None:
            return self._zero_offset
        raise UnsupportedModelError(
            f"{stem}: config.json says sym=true, so zeros should be stored as {middle - 1} (gptq) or {middle} (gptq_v2), but they go "
            f"from {least} to {most}: quantization_config is of another checkpoint"
        )

    def _check_order(self, stem: str, in_features: int, num_groups: int) -> None:
        if not self._stored.stores(stem + ".g_idx") or in_features % num_groups:
            return
        in_order = torch.arange(in_features, dtype=torch.int32) // (in_features // num_groups)
        if not torch.equal(self._stored.read(stem + ".g_idx").to(torch.int32), in_order):
            raise UnsupportedModelError(
                f"{stem}: GPTQ with its inputs in another order (desc_act: g_idx) is not supported, only groups of "
                "inputs that follow one another: take a checkpoint with desc_act=False"
            )


def _stem(name: str) -> str:
    return name.removesuffix(".weight")


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 ``[num_words, n]`` to uint8 ``[num_words, 32 / bits, n]``, the lowest bits first."""
    codes = torch.empty((words.shape[0], 32 // bits, words.shape[1]), dtype=torch.uint8)
    for i in range(32 // bits):
        codes[:, i] = words >> (i * bits) & ((1 << bits) - 1)
    return codes
