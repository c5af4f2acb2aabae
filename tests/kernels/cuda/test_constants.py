"""Sizes that Python plans with: those of the compiled kernels."""

from __future__ import annotations

import torch

from specgrove.kernels.cuda import attention
from specgrove.kernels.cuda.backend import kernels_for


def test_attention_plans_have_the_sizes_of_the_kernels(device: torch.device) -> None:
    kernels = kernels_for(device)
    assert attention._BLOCK_KEYS == kernels.BLOCK_KEYS
    assert attention._SPLIT_KEYS == kernels.BLOCK_KEYS * kernels.SPLIT_BLOCKS
    assert attention._SPAN_SPLITS == kernels.SPAN_SPLITS
    assert attention._TILE_QUERIES == kernels.TILE_QUERIES
