"""Norms, activation and embedding against float64, and bits that neither rows nor paths change."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels import elementwise, reference, threads

SIZES = [1, 16, 48, 77, 576]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_equal_float64(size: int, num_rows: int) -> None:
    x, delta, weight = torch.randn(num_rows, size) * 3, torch.randn(num_rows, size), torch.randn(size)
    assert torch.allclose(
        elementwise.rms_norm(x, weight, 1e-5).double(), reference.rms_norm(x, weight, 1e-5), 2e-6, 1e-6
    )
    ours, theirs = x.clone(), x.clone()
    found = elementwise.add_rms_norm(ours, delta, weight, 1e-5)
    assert torch.allclose(found.double(), reference.add_rms_norm(theirs, delta, weight, 1e-5), 2e-6, 1e-6)
    assert torch.equal(ours, theirs)
    gate_up = torch.randn(num_rows, 2 * size) * 20
    assert torch.allclose(elementwise.silu_mul(gate_up).double(), reference.silu_mul(gate_up), 2e-6, 1e-6)


def test_silu_of_extremes() -> None:
    gate_up = torch.tensor([[-1e30, -100.0, 0.0, 100.0, 1e30, 1.0, 1.0, 1.0, 1.0, 1.0]])
    assert torch.allclose(elementwise.silu_mul(gate_up), torch.tensor([[0.0, 0.0, 0.0, 100.0, 1e30]]), atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_embedding_is_exact(dtype: torch.dtype) -> None:
    table = torch.randn(50, 33).to(dtype)
    table[3, :4] = torch.tensor([6e-8, -6e-5, 0.0, 65504.0]).to(dtype)  # subnormal and largest numbers of float16
    ids = torch.tensor([3, 49, 0, 3])
    assert torch.equal(elementwise.embed(table, ids), reference.embed(table, ids))


def test_a_rows_bits_are_its_own() -> None:
    x, weight = torch.randn(64, 200), torch.randn(200)
    for num_threads in (1, 2):
        threads.set_num_threads(num_threads)
        for num_rows in (1, 2, 7, 16, 64):
            rows = x[:num_rows]
            one_by_one = torch.cat([elementwise.rms_norm(row[None], weight, 1e-5) for row in rows])
            assert torch.equal(elementwise.rms_norm(rows, weight, 1e-5), one_by_one)
            assert torch.equal(elementwise.silu_mul(rows), torch.cat([elementwise.silu_mul(row[None]) for row in rows]))


def test_unknown_ids_are_named() -> None:
    for token_id in (-1, 50):
        with pytest.raises(ValueError, match=f"token ids must be from 0 to 49, got {token_id}"):
            elementwise.embed(torch.randn(50, 8), torch.tensor([3, token_id]))
