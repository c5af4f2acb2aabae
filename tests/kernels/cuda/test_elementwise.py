"""Rotary embedding and activation functions for GPUs: the same bits as those for CPUs, rounded once."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from specgrove.kernels import attention, elementwise
from specgrove.kernels.cuda.elementwise import activate, gated, rotate_and_store
from specgrove.kernels.elementwise import Activation
from tests.kernels.cuda.conftest import poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NUM_SLOTS = 12


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """The emulator contracts no multiplication and addition; a GPU may."""
    if found.is_cpu:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(4, 2, 64), (3, 1, 80), (2, 2, 8)])
@pytest.mark.parametrize("is_rotary", [False, True])
def test_queries_keys_and_values(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int, is_rotary: bool
) -> None:
    num_rows = 5
    qkv = torch.randn(num_rows, (num_heads + 2 * num_kv_heads) * head_dim)
    positions = torch.tensor([0, 7, 3, 3, 9], dtype=torch.int32)
    slots = torch.tensor([4, 0, 11, 5, 6], dtype=torch.int32)
    cos_sin = torch.randn(10, head_dim) if is_rotary else None
    expected_caches = [torch.zeros(NUM_SLOTS, num_kv_heads, head_dim, dtype=dtype) for _ in range(2)]
    caches = [cache.to(device) for cache in expected_caches]
    expected = attention.rotate_and_store(qkv, positions, cos_sin, slots, *expected_caches)
    queries = poisoned(num_rows, num_heads, head_dim, dtype=dtype, device=device)
    on_device = None if cos_sin is None else cos_sin.to(device)
    rotate_and_store(qkv.to(device), positions.to(device), on_device, slots.to(device), *caches, queries)
    assert_close(queries, expected.to(dtype))
    for found, expected_cache in zip(caches, expected_caches, strict=True):
        assert_close(found, expected_cache)


def test_rows_without_a_slot_are_left_out(device: torch.device) -> None:
    k_cache, v_cache = (torch.zeros(NUM_SLOTS, 1, 64, device=device) for _ in range(2))
    slots = torch.tensor([-1, 3], dtype=torch.int32, device=device)
    positions = torch.tensor([-5, 0], dtype=torch.int32, device=device)
    queries = poisoned(2, 1, 64, dtype=torch.float32, device=device)
    cos_sin = torch.randn(1, 64, device=device)
    rotate_and_store(torch.randn(2, 3 * 64, device=device), positions, cos_sin, slots, k_cache, v_cache, queries)
    assert queries[0].isnan().all()
    assert not queries[1].isnan().any()
    written = torch.arange(NUM_SLOTS, device=device) == 3
    for cache in (k_cache, v_cache):
        assert torch.equal(cache.flatten(1).any(1), written)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", get_args(Activation))
@pytest.mark.parametrize("is_gated", [False, True])
def test_activations(device: torch.device, dtype: torch.dtype, activation: Activation, is_gated: bool) -> None:
    x = 3 * torch.randn(3, 600)
    out = poisoned(3, 300 if is_gated else 600, dtype=dtype, device=device)
    (gated if is_gated else activate)(x.to(device), activation, out)
    expected = (elementwise.gated if is_gated else elementwise.activate)(x, activation)
    assert_close(out, expected.to(dtype))
