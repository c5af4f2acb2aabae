"""Sizes that Python plans with: those of the compiled kernels."""

from __future__ import annotations

import torch

from specgrove.kernels import device_memory
from specgrove.kernels.cuda.backend import kernels_for


def test_attention_plans_have_the_sizes_of_the_kernels(device: torch.device) -> None:
    kernels = kernels_for(device)
    assert device_memory._BLOCK_KEYS == kernels.BLOCK_KEYS
    assert device_memory._SPLIT_KEYS == kernels.BLOCK_KEYS * kernels.SPLIT_BLOCKS
    assert device_memory._SPAN_SPLITS == kernels.SPAN_SPLITS
    assert device_memory._TILE_QUERIES == kernels.TILE_QUERIES
