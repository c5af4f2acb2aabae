"""Norms, sums, activation functions and embedding against float64, and bits that neither rows nor threads change."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest
import torch

from specgrove.kernels import threads
from specgrove.kernels.activations import Activation
from tests.kernels.one_op import (
    activate,
    add,
    add_norm,
    add_positions,
    embed,
    head_norm,
    in_float32,
    in_float64,
    norm,
    scale,
)

SIZES = [1, 16, 48, 77, 576]
ACTIVATIONS: list[Activation] = list(get_args(Activation))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_rows", [1, 7, 64])
@pytest.mark.parametrize(("kind", "has_shift"), [("rms", False), ("layer", False), ("layer", True)])
def test_norms_equal_float64(size: int, num_rows: int, kind: str, has_shift: bool) -> None:
    x, delta, scale = torch.randn(num_rows, size) * 3, torch.randn(num_rows, size), torch.randn(size)
    x += 0 if kind == "rms" else 5
    shift = torch.randn(size) if has_shift else None
    tolerance = 1e-6 if kind == "rms" else 4e-6
    found = norm(x, scale, shift, kind)
    assert torch.allclose(found.double(), norm(x, scale, shift, kind, in_float64), 2e-6, tolerance)
    normed, total = add_norm(x, delta, scale, shift, kind)
    assert torch.equal(total, x + delta)
    assert torch.equal(normed, norm(total, scale, shift, kind))
    # Of the sum as float32 has it.
    assert torch.allclose(normed.double(), norm(x + delta, scale, shift, kind, in_float64), 2e-6, tolerance)
    assert torch.equal(add(x, delta), x + delta)


@pytest.mark.parametrize(
    ("first_head", "num_heads", "head_dim"), [(0, 4, 16), (4, 2, 16), (3, 5, 1), (1, 1, 77), (0, 3, 256), (2, 0, 8)]
)
def test_head_norms_are_norms_of_each_head(first_head: int, num_heads: int, head_dim: int) -> None:
    """And what stands in other columns is left as it is."""
    x, scale = torch.randn(9, (first_head + num_heads + 2) * head_dim) * 3, torch.randn(head_dim)
    found = head_norm(x, scale, first_head, num_heads, head_dim)
    expected = head_norm(x, scale, first_head, num_heads, head_dim, in_float64)
    assert torch.allclose(found.double(), expected, 2e-6, 1e-6)
    rest = torch.ones(x.shape[1], dtype=torch.bool)
    rest[first_head * head_dim : (first_head + num_heads) * head_dim] = False
    assert torch.equal(found[:, rest], x[:, rest])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_rows", [1, 64])
def test_a_factor_is_of_every_number(size: int, num_rows: int) -> None:
    x = torch.randn(num_rows, size)
    assert torch.equal(scale(x, 0.22), scale(x, 0.22, in_float32))
    assert torch.equal(scale(x, 0.22), x * 0.22)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_equal_float64(activation: Activation) -> None:
    sizes = torch.logspace(-30, 2, 40_000)
    x = torch.cat([torch.linspace(-30, 30, 400_001), sizes, -sizes])[None]
    error = (activate(x, activation) - activate(x, activation, on=in_float64)).abs()
    assert (error / x.abs().clamp_min(1)).max() <= 2e-7
    for num_rows, size in ((1, 1), (7, 77), (64, 576)):
        gate_up = torch.randn(num_rows, 2 * size) * 20
        found = activate(gate_up, activation, is_gated=True)
        expected = activate(gate_up, activation, is_gated=True, on=in_float64)
        assert torch.allclose(found.double(), expected, 2e-6, 1e-6)
        gate, up = gate_up.chunk(2, dim=1)
        assert torch.equal(found, activate(gate.contiguous(), activation) * up)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_extremes(activation: Activation) -> None:
    x = torch.tensor([[-1e30, -100.0, 0.0, 100.0, 1e30, float("inf")]])
    wanted = torch.tensor([[0.0, 0.0, 0.0, 100.0, 1e30, float("inf")]])
    assert torch.allclose(activate(x, activation), wanted, atol=1e-30)
    assert activate(torch.tensor([[float("nan")]]), activation).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_embedding_is_exact(dtype: torch.dtype) -> None:
    table = torch.randn(50, 33).to(dtype)
    table[3, :4] = torch.tensor([6e-8, -6e-5, 0.0, 65504.0]).to(dtype)  # subnormal and largest numbers of float16
    ids = [3, 49, 0, 3]
    assert torch.equal(embed(table, ids), table[ids].float())
    assert torch.equal(embed(table, ids, scale=1.7), table[ids].float() * 1.7)
    x = torch.randn(4, 33)
    assert torch.equal(add_positions(x, table, [3, 49, 0, 3]), x + table[ids].float())


def test_a_ranks_rows_of_the_embedding_are_zeros_elsewhere() -> None:
    table = torch.randn(20, 33)
    found = embed(table, [9, 10, 29, 30, 49], scale=2.0, first_id=10, vocab_size=50)
    assert torch.equal(found[1:3], 2 * table[[0, 19]])
    assert not found[[0, 3, 4]].any()


torch.manual_seed(0)
WEIGHT, BIAS = torch.randn(2, 200).unbind()
OPS_BY_ROW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rms norm": lambda rows: norm(rows, WEIGHT),
    "rms norm of a sum": lambda rows: add_norm(rows, rows, WEIGHT)[0],
    "layer norm": lambda rows: norm(rows, WEIGHT, BIAS, "layer"),
    "layer norm of a sum": lambda rows: add_norm(rows, rows, WEIGHT, None, "layer")[0],
    "norm of heads": lambda rows: head_norm(rows, WEIGHT[:40].contiguous(), 1, 3, 40),
    "sum": lambda rows: add(rows, rows),
    **{name: lambda rows, name=name: activate(rows, name) for name in ACTIVATIONS},  # type: ignore[misc]
    **{f"gated {name}": lambda rows, name=name: activate(rows, name, is_gated=True) for name in ACTIVATIONS},  # type: ignore[misc]
}


@pytest.mark.parametrize("name", OPS_BY_ROW)
def test_a_rows_bits_are_its_own(name: str) -> None:
    """With 1 or 2 threads, enough rows for several tasks, and wherever a row stands."""
    op, x = OPS_BY_ROW[name], torch.randn(200, 200) * 3
    threads.set_num_threads(1)
    one_by_one = torch.cat([op(row[None]) for row in x])
    for num_threads in (1, 2):
        threads.set_num_threads(num_threads)
        for num_rows in (1, 2, 7, 16, 64, 200):
            assert torch.equal(op(x[-num_rows:]), one_by_one[-num_rows:])


def test_unknown_ids_and_positions_are_named() -> None:
    for wrong in (-1, 50):
        with pytest.raises(ValueError, match=f"token ids must be from 0 to 49, got {wrong}"):
            embed(torch.randn(50, 8), [3, wrong])
        with pytest.raises(ValueError, match=f"positions must be from 0 to 49, got {wrong}"):
            add_positions(torch.randn(2, 8), torch.randn(50, 8), [3, wrong])
