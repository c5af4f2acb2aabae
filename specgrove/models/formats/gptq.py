"""GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel store it: ``qweight``, ``qzeros``, ``scales`` and ``g_idx``, 4 or 8 bits.

``qweight`` is int32 ``[in_features / n, out_features]`` with the codes of n = 32 / bits inputs in a word, the first in the lowest bits;
``qzeros`` is ``[num_groups, out_features / n]``, packed along the outputs. The first version of the format stores zeros less one.
Source: https://github.com/AutoGPTQ/AutoGPTQ/blob/main/auto_gptq/nn_modules/qlinear/qlinear_cuda.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats.stored import StoredTensors, bounds, from_zero_points, groups_of
from specgrove.models.weights import Weight

_ALL = slice(None)


class GptqFormat:
    """See ``WeightFormat``."""

    def __init__(self, config: Mapping[str, Any], stored: StoredTensors) -> None:
        """Raises ``UnsupportedModelError``."""
        self._bits = int(config.get("bits", 4))
        if self._bits not in (4, 8):
            raise UnsupportedModelError(f"GPTQ of {self._bits} bits is not supported, only 4 and 8")
        version = config.get("checkpoint_format") or "gptq"
        if version not in ("gptq", "gptq_v2") or config.get("is_marlin_format"):
            raise UnsupportedModelError(f"GPTQ in the {version} layout is not supported, only gptq and gptq_v2")
        self._zero_offset = 1 if version == "gptq" else 0
        self._stored = stored

    def holds(self, name: str) -> bool:
        """See ``WeightFormat``."""
        return name.endswith(".weight") and self._stored.stores(_stem(name) + ".qweight")

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``WeightFormat``."""
        num_words, out_features = self._stored.shape_of(_stem(name) + ".qweight")
        return out_features, num_words * 32 // self._bits

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``WeightFormat``."""
        stored, stem, codes_per_word = self._stored, _stem(name), 32 // self._bits
        out_features, in_features = self.shape_of(name)
        num_groups = stored.shape_of(stem + ".scales")[0]
        self._check_order(stem, in_features, num_groups)
        wanted, outputs = bounds(columns, in_features), bounds(rows, out_features)
        groups = groups_of(name, wanted, in_features, num_groups)
        words = slice(wanted.start // codes_per_word, -(-wanted.stop // codes_per_word))
        codes = _unpacked(stored.read(stem + ".qweight", words, rows), self._bits).flatten(0, 1)
        first = wanted.start - words.start * codes_per_word
        zeros = _unpacked(stored.read(stem + ".qzeros", groups, _ALL).T, self._bits).flatten(0, 1)
        return from_zero_points(
            codes[first : first + len(wanted)].T.contiguous(),
            zeros[outputs.start : outputs.stop].to(torch.int16) + self._zero_offset,
            stored.read(stem + ".scales", groups, rows).T,
            self._bits,
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
