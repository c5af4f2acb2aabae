"""Our own format: ``<name>.codes``, ``<name>.scales`` and, where a weight has them, ``<name>.mins``, as ``QuantizedWeight`` holds them.

Written by ``specgrove.models.weights.quantization``. Codes of 8 bits are int8 ``[out_features, in_features]``; codes of 4 bits are uint8
``[out_features, in_features / 2]``, two to a byte. So a tensor's type tells its bits, and a folder may have both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from specgrove.kernels.quantized_linear import QuantizedWeight, pack_codes, unpack_codes
from specgrove.models.decoder.parameters import Weight
from specgrove.models.weights.formats.stored import StoredTensors, bounds, groups_of

QUANT_METHOD = "specgrove"
_PARTS = ("codes", "scales", "mins")


def quantization_config(bits: int, group_size: int | None) -> dict[str, Any]:
    """What ``config.json`` says of a folder in this format."""
    return {"quant_method": QUANT_METHOD, "bits": bits, "group_size": group_size}


def parts_of(name: str, weight: QuantizedWeight) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors to store."""
    yield f"{name}.codes", weight.codes if weight.bits == 8 else pack_codes(weight.codes, weight.bits)
    yield f"{name}.scales", weight.scales
    if weight.mins is not None:
        yield f"{name}.mins", weight.mins


class OwnFormat:
    """See ``WeightFormat``."""

    def __init__(self, stored: StoredTensors) -> None:
        self._stored = stored

    def holds(self, name: str) -> bool:
        """See ``WeightFormat``."""
        return self._stored.stores(f"{name}.codes")

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``WeightFormat``."""
        out_features, num_bytes = self._stored.shape_of(f"{name}.codes")
        return out_features, num_bytes * 8 // self._bits_of(name)

    def parts_of(self, name: str) -> tuple[str, ...]:
        """See ``WeightFormat``."""
        return tuple(part for part in (f"{name}.{kind}" for kind in _PARTS) if self._stored.stores(part))

    def _bits_of(self, name: str) -> int:
        return 8 if self._stored.read(f"{name}.codes", slice(0, 1)).dtype == torch.int8 else 4

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``WeightFormat``."""
        stored, bits = self._stored, self._bits_of(name)
        codes_per_byte = 8 // bits
        _, in_features = self.shape_of(name)
        wanted = bounds(columns, in_features)
        groups = groups_of(name, wanted, in_features, stored.shape_of(f"{name}.scales")[1])
        num_bytes = slice(wanted.start // codes_per_byte, -(-wanted.stop // codes_per_byte))
        codes = stored.read(f"{name}.codes", rows, num_bytes)
        if bits == 4:
            codes = unpack_codes(codes.contiguous(), bits, codes.shape[1] * codes_per_byte)
            first = wanted.start - num_bytes.start * codes_per_byte
            codes = codes[:, first : first + len(wanted)]
        has_mins = stored.stores(f"{name}.mins")
        return QuantizedWeight(
            codes=codes.contiguous(),
            scales=stored.read(f"{name}.scales", rows, groups).contiguous(),
            mins=stored.read(f"{name}.mins", rows, groups).contiguous() if has_mins else None,
            bits=bits,
        )
