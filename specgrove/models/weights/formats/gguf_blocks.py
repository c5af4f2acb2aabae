"""The values of GGUF tensors. Every quantised type is ``scale * code + min`` in groups, so one ``Codes`` holds them all.

Called by ``specgrove.models.weights.formats.gguf_checkpoint``. The types of 256 weights to a block are in ``gguf_super_blocks``. Invariant:
``dequantized`` gives the bits that llama.cpp's own package ``gguf`` does.
Source of the layouts: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q4_0 and the following)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch

from specgrove.kernels.quantized_linear import QuantizedWeight
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.formats.gguf_codes import Codes, halves, nibbles
from specgrove.models.weights.formats.gguf_super_blocks import SUPER_BLOCKS
from specgrove.models.weights.gguf_file import TYPES

BLOCK_LEN = 32
PLAIN_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BITS = {"Q8_0": 8, "Q4_0": 4, "Q4_1": 4}
"""The types that the kernels take as they are."""
BLOCK_BYTES = {name: num_bytes for name, _, num_bytes in TYPES.values()}
_CHUNK_NUMEL = 1 << 19  # weights dequantised at a time: few enough to stay in the cache


def _q8_0(blocks: torch.Tensor) -> Codes:
    return Codes(blocks[:, 2:].view(torch.int8), halves(blocks, 0), None)


def _q4_0(blocks: torch.Tensor) -> Codes:
    return Codes(nibbles(blocks[:, 2:]).view(torch.int8) - 8, halves(blocks, 0), None)


def _q4_1(blocks: torch.Tensor) -> Codes:
    return Codes(nibbles(blocks[:, 4:]), halves(blocks, 0), halves(blocks, 2))


def _q5_0(blocks: torch.Tensor) -> Codes:
    codes = nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return Codes(codes.view(torch.int8) - 16, halves(blocks, 0), None)


def _q5_1(blocks: torch.Tensor) -> Codes:
    return Codes(nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8]), halves(blocks, 0), halves(blocks, 2))


def _fifth_bits(words: torch.Tensor) -> torch.Tensor:
    """uint8 ``[num_blocks, 4]`` to ``[num_blocks, 32]``: bit i of a word as the fifth bit of code i."""
    bits = words[:, :, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten(1) << 4


_DECODERS: dict[str, Callable[[torch.Tensor], Codes]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, **SUPER_BLOCKS,
}  # fmt: skip
SUPPORTED_TYPES = (*PLAIN_TYPES, *_DECODERS)


def plain(data: npt.NDArray[np.uint8], kind: str) -> torch.Tensor:
    """F32, F16 or BF16, as it is stored: ``[rows, bytes of a row]`` to ``[rows, columns]``."""
    return torch.from_numpy(data.copy()).view(PLAIN_TYPES[kind])


def quantized(data: npt.NDArray[np.uint8], kind: str) -> QuantizedWeight:
    """A type of ``BITS``: ``[out_features, bytes of a row]`` to a weight of the same values, in groups of 32."""
    blocks = torch.from_numpy(data.reshape(-1, BLOCK_BYTES[kind]).copy())
    found, out_features = _DECODERS[kind](blocks), data.shape[0]
    scales = found.scales.view(out_features, -1)
    mins = None if found.mins is None else found.mins.view(out_features, -1)
    codes = found.codes
    if kind == "Q4_0":
        codes, mins = (codes + 8).view(torch.uint8), -8 * scales
    return QuantizedWeight(codes.reshape(out_features, -1).contiguous(), scales, mins, BITS[kind])


def dequantized(data: npt.NDArray[np.uint8], kind: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """``[rows, bytes of a row]`` to ``[rows, columns]``: plain types as they are stored, others rounded to ``dtype``.

    Raises ``UnsupportedModelError`` for a type that isn't known.
    """
    if kind in PLAIN_TYPES:
        return plain(data, kind)
    if kind not in _DECODERS:
        return _by_package(data, kind).to(dtype)
    num_rows, block_len = data.shape[0], next(length for name, length, _ in TYPES.values() if name == kind)
    num_columns = data.shape[1] // BLOCK_BYTES[kind] * block_len
    values = torch.empty(num_rows, num_columns, dtype=dtype)
    rows_per_chunk = max(1, _CHUNK_NUMEL // max(1, num_columns))

    def fill(start: int) -> None:
        rows = slice(start, start + rows_per_chunk)
        blocks = torch.from_numpy(data[rows].reshape(-1, BLOCK_BYTES[kind]).copy())
        values[rows] = _DECODERS[kind](blocks).values().view(-1, num_columns)

    with ThreadPoolExecutor(os.cpu_count(), initializer=_one_thread) as pool:
        list(pool.map(fill, range(0, num_rows, rows_per_chunk)))
    return values


def check_type(kind: str) -> None:
    """Raises ``UnsupportedModelError`` for a type that ``dequantized`` can't read, without reading any."""
    if kind not in SUPPORTED_TYPES:
        _by_package(np.zeros((1, BLOCK_BYTES[kind]), np.uint8), kind)


def _by_package(data: npt.NDArray[np.uint8], kind: str) -> torch.Tensor:
    """Rare types, float32, with llama.cpp's own package where somebody installed it."""
    try:
        import gguf

        values = gguf.quants.dequantize(np.ascontiguousarray(data), gguf.GGMLQuantizationType[kind])
    except (ImportError, KeyError, NotImplementedError) as error:
        known = f"only {', '.join(SUPPORTED_TYPES)} are"
        remedy = "; others can be with the gguf package: pip install gguf" if isinstance(error, ImportError) else ""
        raise UnsupportedModelError(f"the type {kind} is not read, {known}{remedy}") from error
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def _one_thread() -> None:
    torch.set_num_threads(1)  # of this thread: chunks are dequantised side by side
