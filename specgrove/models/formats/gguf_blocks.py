"""The values of GGUF tensors: blocks of 32 codes become a ``QuantizedWeight``, all types can be dequantised.

Called by ``specgrove.models.formats.gguf_checkpoint``. Source of the layouts:
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q4_0, block_q4_1, block_q8_0)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from specgrove.kernels.quantized_linear import QuantizedWeight

BLOCK_LEN = 32
PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Bytes before the codes: a float16 scale, and a float16 minimum for Q4_1; then the codes.
_SCALE_BYTES = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4}
BLOCK_BYTES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}
BITS = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}


def plain(data: npt.NDArray[Any], kind: str) -> torch.Tensor:
    """F32, F16 or BF16, as it is stored."""
    dtype = PLAIN_TYPES[kind]
    if kind == "BF16":  # the reader gives bytes
        return torch.from_numpy(data.view(np.int16).copy()).view(dtype)
    return torch.from_numpy(data.copy())


def quantized(data: npt.NDArray[np.uint8], kind: str) -> QuantizedWeight:
    """uint8 ``[out_features, num_blocks * block_bytes]`` to a weight of the same values, in groups of 32."""
    out_features = data.shape[0]
    blocks = data.reshape(out_features, -1, BLOCK_BYTES[kind])
    head = np.ascontiguousarray(blocks[:, :, : _SCALE_BYTES[kind]]).view(np.float16).astype(np.float32)
    bytes_ = np.ascontiguousarray(blocks[:, :, _SCALE_BYTES[kind] :])
    scales = torch.from_numpy(head[:, :, 0].copy())
    if kind == "Q8_0":
        codes = torch.from_numpy(bytes_.view(np.int8)).view(out_features, -1)
        return QuantizedWeight(codes, scales, None, 8)
    # The first 16 codes of a block are in the lower halves of its bytes.
    codes = torch.from_numpy(np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1)).view(out_features, -1)
    mins = -8 * scales if kind == "Q4_0" else torch.from_numpy(head[:, :, 1].copy())
    return QuantizedWeight(codes, scales, mins, 4)


def dequantized(data: npt.NDArray[Any], kind: str) -> torch.Tensor:
    """Any type that the ``gguf`` package knows, in float32; plain types stay as they are."""
    if kind in PLAIN_TYPES:
        return plain(data, kind)
    import gguf

    values = gguf.quants.dequantize(np.ascontiguousarray(data), gguf.GGMLQuantizationType[kind])
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
