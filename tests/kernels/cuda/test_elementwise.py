"""Embedding, rotary embedding and activation functions for GPUs: the same bits as those for CPUs, rounded once."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from specgrove.kernels.activations import Activation
from specgrove.kernels.cuda.backend import launch
from tests.kernels import one_op
from tests.kernels.cuda.conftest import poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NUM_SLOTS = 12


def rotate_and_store(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    cos_sin: torch.Tensor | None,
    slots: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    queries: torch.Tensor,
) -> None:
    """``queries`` is ``[num_rows, num_heads, head_dim]``."""
    heads = {"num_heads": queries.shape[1], "num_kv_heads": k_cache.shape[1], "head_dim": queries.shape[2]}
    places = {"positions": positions, "slots": slots, "k_cache": k_cache, "v_cache": v_cache}
    launch("RotateStore", qkv=qkv, cos_sin=cos_sin, queries=queries.flatten(1), **places, **heads)


def embed(
    table: torch.Tensor,
    token_ids: torch.Tensor,
    out: torch.Tensor,
    scale: float = 1.0,
    position_table: torch.Tensor | None = None,
    positions: torch.Tensor | None = None,
    first_id: int = 0,
) -> None:
    learned = {"position_table": position_table, "positions": positions}
    launch("Embed", table=table, token_ids=token_ids, out=out, scale=scale, first_id=first_id, **learned)


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
    expected = one_op.rotate_store(qkv, positions.tolist(), cos_sin, slots.tolist(), *expected_caches)
    queries = poisoned(num_rows, num_heads, head_dim, dtype=dtype, device=device)
    on_device = None if cos_sin is None else cos_sin.to(device)
    rotate_and_store(qkv.to(device), positions.to(device), on_device, slots.to(device), *caches, queries)
    assert_close(queries.flatten(1), expected.to(dtype))
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
    fields = {"activation": activation, "is_gated": is_gated, "size": out.shape[1]}
    launch("Activate", x=x.to(device), out=out, **fields)
    expected = one_op.activate(x, activation, is_gated=is_gated)
    assert_close(out, expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 300])
def test_factors(device: torch.device, dtype: torch.dtype, size: int) -> None:
    x = torch.randn(3, size).to(dtype)
    scaled = x.to(device, copy=True)
    launch("Scale", x=scaled, factor=0.22)
    assert_close(scaled, (x.float() * 0.22).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 20, 64, 1100, 2048])
@pytest.mark.parametrize("has_positions", [False, True])
@pytest.mark.parametrize("scale", [1.0, 23.9])
def test_embeddings(device: torch.device, dtype: torch.dtype, size: int, has_positions: bool, scale: float) -> None:
    table, learned = torch.randn(9, size).to(dtype), torch.randn(4, size).to(dtype)
    token_ids = torch.tensor([8, 0, 3, 3, 5], dtype=torch.int32)
    positions = torch.tensor([3, 0, 2, 1, 1], dtype=torch.int32)
    expected = one_op.embed(table, token_ids.tolist(), scale)
    tables: list[torch.Tensor] = []
    if has_positions:
        expected = one_op.add_positions(expected, learned, positions.tolist())
        tables = [learned.to(device), positions.to(device)]
    out = poisoned(5, size, dtype=torch.float32, device=device)
    embed(table.to(device), token_ids.to(device), out, scale, *tables)
    assert_close(out, expected)
    alone = poisoned(5, size, dtype=torch.float32, device=device)
    for own in (slice(row, row + 1) for row in range(5)):
        tables[1:] = [positions[own].to(device)] if has_positions else []
        embed(table.to(device), token_ids[own].to(device), alone[own], scale, *tables)
    assert torch.equal(alone, out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tables_may_begin_anywhere(device: torch.device, dtype: torch.dtype) -> None:
    """Not only where 16 bytes can be loaded at once."""
    table = torch.randn(5 * 64 + 1, device=device).to(dtype)[1:].view(5, 64)
    token_ids = torch.tensor([4, 2], dtype=torch.int32, device=device)
    out = poisoned(2, 64, dtype=torch.float32, device=device)
    embed(table, token_ids, out)
    assert torch.equal(out, table[token_ids.long()].float())


@pytest.mark.parametrize("size", [64, 5])
def test_ids_of_other_ranks_give_zeros(device: torch.device, size: int) -> None:
    table = torch.randn(3, size, device=device)
    token_ids = torch.tensor([6, 3, 2, 0, 5, -1], dtype=torch.int32, device=device)
    out = poisoned(6, size, dtype=torch.float32, device=device)
    embed(table, token_ids, out, 2.0, first_id=3)
    expected = torch.zeros(6, size, device=device)
    expected[1], expected[4] = 2.0 * table[0], 2.0 * table[2]
    assert torch.equal(out, expected)


def test_a_table_of_positions_needs_positions(device: torch.device) -> None:
    table, token_ids = torch.randn(5, 8, device=device), torch.zeros(2, dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match="positions"):
        embed(table, token_ids, torch.empty(2, 8, device=device), position_table=table)
