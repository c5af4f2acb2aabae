"""GGUF's types of 256 weights to a block, in groups of 16 or 32 whose scales are small integers times the block's own.

Used by ``gguf_blocks``. Each function takes uint8 ``[num_blocks, block_bytes]``. Source of the layouts:
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (block_q2_K to block_q6_K)
"""

from __future__ import annotations

import torch

from specgrove.models.weights.formats.gguf_codes import Codes, halves, nibbles


def _q2_k(blocks: torch.Tensor) -> Codes:
    scales, codes = blocks[:, :16], blocks[:, 16:80]
    scale, minimum = halves(blocks, 80), halves(blocks, 82)
    return Codes(_two_bits(codes), scale * (scales & 15).float(), -(minimum * (scales >> 4).float()))


def _q3_k(blocks: torch.Tensor) -> Codes:
    high, low, packed = blocks[:, :32], blocks[:, 32:96], blocks[:, 96:108]
    planes = torch.arange(8, dtype=torch.uint8)[:, None]
    codes = _two_bits(low) | (high[:, None, :] >> planes & 1).flatten(1) << 2
    upper = packed[:, None, 8:] >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None] & 3
    scales = (nibbles(packed[:, :8]) | upper.flatten(1) << 4).view(torch.int8) - 32
    return Codes(codes.view(torch.int8) - 4, halves(blocks, 108) * scales.float(), None)


def _q4_k(blocks: torch.Tensor) -> Codes:
    scales, mins = _scales_and_mins(blocks)
    return Codes(_by_halves(blocks[:, 16:]), scales, mins)


def _q5_k(blocks: torch.Tensor) -> Codes:
    scales, mins = _scales_and_mins(blocks)
    planes = torch.arange(8, dtype=torch.uint8)[:, None]
    high = (blocks[:, None, 16:48] >> planes & 1).flatten(1)
    return Codes(_by_halves(blocks[:, 48:]) | high << 4, scales, mins)


def _q6_k(blocks: torch.Tensor) -> Codes:
    low = nibbles(blocks[:, :128].reshape(-1, 2, 64)).flatten(1)
    high = _two_bits(blocks[:, 128:192])
    codes = (low | high << 4).view(torch.int8) - 32
    scales = blocks[:, 192:208].contiguous().view(torch.int8).float()
    return Codes(codes, halves(blocks, 208) * scales, None)


def _two_bits(packed: torch.Tensor) -> torch.Tensor:
    """uint8 ``[n, 64]`` to ``[n, 256]``: each 32 bytes hold four runs of 32 codes, from the lowest bits."""
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    return (packed.reshape(-1, 2, 1, 32) >> shifts & 3).flatten(1)


def _by_halves(packed: torch.Tensor) -> torch.Tensor:
    """uint8 ``[n, 128]`` to ``[n, 256]``: each 32 bytes hold two runs of 32 codes."""
    return nibbles(packed.reshape(-1, 4, 32)).flatten(1)


def _scales_and_mins(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Those of the 8 groups of Q4_K and Q5_K: 6 bits each, in 12 bytes after the block's own scale and minimum."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat([first & 63, third & 15 | first >> 6 << 4], dim=-1)
    mins = torch.cat([second & 63, third >> 4 | second >> 6 << 4], dim=-1)
    return halves(blocks, 0) * scales.float(), -(halves(blocks, 2) * mins.float())


SUPER_BLOCKS = {"Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}
