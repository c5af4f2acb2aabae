"""Norms, sums, activation functions and embedding against float64, and bits that neither rows nor threads change."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from specgrove.kernels import elementwise, reference, threads
from specgrove.kernels.activations import Activation

SIZES = [1, 16, 48, 77, 576]
ACTIVATIONS: list[Activation] = ["silu", "gelu", "gelu_tanh", "relu"]


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
    elementwise.add(ours, delta)
    reference.add(theirs, delta)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("num_rows", [1, 7, 64])
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norms_equal_float64(size: int, num_rows: int, has_bias: bool) -> None:
    x, delta, weight = torch.randn(num_rows, size) * 3 + 5, torch.randn(num_rows, size), torch.randn(size)
    bias = torch.randn(size) if has_bias else None
    found, expected = elementwise.layer_norm(x, weight, bias, 1e-5), reference.layer_norm(x, weight, bias, 1e-5)
    assert torch.allclose(found.double(), expected, 2e-6, 4e-6)
    ours, theirs = x.clone(), x.clone()
    found = elementwise.add_layer_norm(ours, delta, weight, bias, 1e-5)
    expected = reference.add_layer_norm(theirs, delta, weight, bias, 1e-5)
    assert torch.allclose(found.double(), expected, 2e-6, 4e-6)
    assert torch.equal(ours, theirs)
    assert torch.equal(found, elementwise.layer_norm(ours, weight, bias, 1e-5))


@pytest.mark.parametrize(
    ("first_head", "num_heads", "head_dim"), [(0, 4, 16), (4, 2, 16), (3, 5, 1), (1, 1, 77), (0, 3, 256), (2, 0, 8)]
)
def test_head_norms_are_norms_of_each_head(first_head: int, num_heads: int, head_dim: int) -> None:
    """And what stands in other columns is left as it is."""
    ours = torch.randn(9, (first_head + num_heads + 2) * head_dim) * 3
    before, theirs, weight = ours.clone(), ours.clone(), torch.randn(head_dim)
    elementwise.head_rms_norm(ours, weight, 1e-6, first_head, num_heads, head_dim)
    reference.head_rms_norm(theirs, weight, 1e-6, first_head, num_heads, head_dim)
    assert torch.allclose(ours, theirs, 2e-6, 1e-6)
    heads = slice(first_head * head_dim, (first_head + num_heads) * head_dim)
    alone = elementwise.rms_norm(before[:, heads].reshape(-1, head_dim).contiguous(), weight, 1e-6)
    before[:, heads] = alone.view(9, -1)
    assert torch.equal(ours, before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_equal_float64(activation: Activation) -> None:
    sizes = torch.logspace(-30, 2, 40_000)
    x = torch.cat([torch.linspace(-30, 30, 400_001), sizes, -sizes])[None]
    error = (elementwise.activate(x, activation) - reference.activate(x, activation)).abs()
    assert (error / x.abs().clamp_min(1)).max() <= 2e-7
    for num_rows, size in ((1, 1), (7, 77), (64, 576)):
        gate_up = torch.randn(num_rows, 2 * size) * 20
        found = elementwise.gated(gate_up, activation)
        assert torch.allclose(found.double(), reference.gated(gate_up, activation), 2e-6, 1e-6)
        gate, up = gate_up.chunk(2, dim=1)
        assert torch.equal(found, elementwise.activate(gate.contiguous(), activation) * up)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_of_extremes(activation: Activation) -> None:
    x = torch.tensor([[-1e30, -100.0, 0.0, 100.0, 1e30, float("inf")]])
    wanted = torch.tensor([[0.0, 0.0, 0.0, 100.0, 1e30, float("inf")]])
    assert torch.allclose(elementwise.activate(x, activation), wanted, atol=1e-30)
    assert elementwise.activate(torch.tensor([[float("nan")]]), activation).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_embedding_is_exact(dtype: torch.dtype) -> None:
    table = torch.randn(50, 33).to(dtype)
    table[3, :4] = torch.tensor([6e-8, -6e-5, 0.0, 65504.0]).to(dtype)  # subnormal and largest numbers of float16
    ids = torch.tensor([3, 49, 0, 3])
    assert torch.equal(elementwise.embed(table, ids), reference.embed(table, ids))


def head_norm(rows: torch.Tensor) -> torch.Tensor:
    out = rows.clone()
    elementwise.head_rms_norm(out, WEIGHT[:40].contiguous(), 1e-6, 1, 3, 40)
    return out


def added(rows: torch.Tensor) -> torch.Tensor:
    out = rows.clone()
    elementwise.add(out, rows)
    return out


torch.manual_seed(0)
WEIGHT, BIAS = torch.randn(2, 200).unbind()
OPS_BY_ROW: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rms_norm": lambda rows: elementwise.rms_norm(rows, WEIGHT, 1e-5),
    "add_rms_norm": lambda rows: elementwise.add_rms_norm(rows.clone(), rows, WEIGHT, 1e-5),
    "layer_norm": lambda rows: elementwise.layer_norm(rows, WEIGHT, BIAS, 1e-5),
    "add_layer_norm": lambda rows: elementwise.add_layer_norm(rows.clone(), rows, WEIGHT, None, 1e-5),
    "head_rms_norm": head_norm,
    "add": added,
    **{name: lambda rows, name=name: elementwise.activate(rows, name) for name in ACTIVATIONS},  # type: ignore[misc]
    **{f"gated {name}": lambda rows, name=name: elementwise.gated(rows, name) for name in ACTIVATIONS},  # type: ignore[misc]
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


def test_what_does_not_fit_is_named() -> None:
    x, weight = torch.randn(3, 40), torch.randn(40)
    with pytest.raises(ValueError, match=r"bias must have the shape \[40\], got \[39\]"):
        elementwise.layer_norm(x, weight, torch.randn(39), 1e-5)
    with pytest.raises(ValueError, match=r"delta must have the shape \[3, 40\], got \[2, 40\]"):
        elementwise.add(x, x[:2])
    with pytest.raises(ValueError, match=r"delta must have the shape \[3, 40\], got \[2, 40\]"):
        elementwise.add_layer_norm(x, x[:2], weight, None, 1e-5)
    with pytest.raises(ValueError, match="activation must be one of silu, gelu, gelu_tanh, relu, got 'tanh'"):
        elementwise.activate(x, "tanh")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="even number of columns, got 39"):
        elementwise.gated(torch.randn(3, 39), "gelu")
    for first_head, num_heads in ((4, 2), (-1, 2), (6, 0), (0, -1)):
        with pytest.raises(ValueError, match=f"no {num_heads} heads of size 8 from head {first_head} on"):
            elementwise.head_rms_norm(x, torch.randn(8), 1e-5, first_head, num_heads, 8)


def test_unknown_ids_are_named() -> None:
    for token_id in (-1, 50):
        with pytest.raises(ValueError, match=f"token ids must be from 0 to 49, got {token_id}"):
            elementwise.embed(torch.randn(50, 8), torch.tensor([3, token_id]))
