"""Norms against float64, and the bits of a row alone."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional

from specgrove.kernels.cuda.backend import launch
from tests.kernels.cuda.conftest import assert_as_exact_as_torch, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (3, 48), (7, 576), (2, 4096)]
EPS = 1e-5


def rms_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    scale: torch.Tensor,
    eps: float,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> None:
    added = {} if delta is None else {"delta": delta}
    launch("Norm" if delta is None else "AddNorm", kind="rms", x=x, scale=scale, eps=eps, out=out, rows=rows, **added)


def layer_norm(
    x: torch.Tensor,
    delta: torch.Tensor | None,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
    eps: float,
    out: torch.Tensor,
    rows: torch.Tensor | None = None,
) -> None:
    fields = {"scale": scale, "shift": bias, "eps": eps, "out": out, "rows": rows}
    added = {} if delta is None else {"delta": delta}
    launch("Norm" if delta is None else "AddNorm", kind="layer", x=x, **fields, **added)


def head_rms_norm(x: torch.Tensor, scale: torch.Tensor, eps: float, first: int, num_heads: int, size: int) -> None:
    launch("HeadNorm", x=x, scale=scale, eps=eps, first_head=first, num_heads=num_heads, head_dim=size)


def _in_torch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, is_layer_norm: bool) -> torch.Tensor:
    if is_layer_norm:
        return functional.layer_norm(x, x.shape[-1:], weight, bias, EPS)
    return functional.rms_norm(x, x.shape[-1:], weight, EPS)


def _exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, is_layer_norm: bool) -> torch.Tensor:
    return _in_torch(x.double(), weight.double(), None if bias is None else bias.double(), is_layer_norm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), SHAPES)
@pytest.mark.parametrize("has_delta", [False, True])
def test_rms_norm(device: torch.device, dtype: torch.dtype, num_rows: int, size: int, has_delta: bool) -> None:
    torch.manual_seed(num_rows)
    residual, delta = torch.randn(2, num_rows, size, device=device)
    weight = torch.randn(size, device=device)
    expected_sum = residual + delta if has_delta else residual.clone()
    out = poisoned(num_rows, size, dtype=dtype, device=device)
    rms_norm(residual, delta if has_delta else None, weight, EPS, out)
    assert torch.equal(residual, expected_sum)
    in_torch = _in_torch(residual, weight, None, False).to(dtype)
    assert_as_exact_as_torch(out, in_torch, _exact(residual, weight, None, False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), SHAPES)
@pytest.mark.parametrize("has_delta", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norm(
    device: torch.device, dtype: torch.dtype, num_rows: int, size: int, has_delta: bool, has_bias: bool
) -> None:
    torch.manual_seed(num_rows)
    residual, delta = torch.randn(2, num_rows, size, device=device)
    residual += 3.0  # a mean that squares must not be summed with
    weight, bias = torch.randn(2, size, device=device)
    bias_or_none = bias if has_bias else None
    expected_sum = residual + delta if has_delta else residual.clone()
    out = poisoned(num_rows, size, dtype=dtype, device=device)
    layer_norm(residual, delta if has_delta else None, weight, bias_or_none, EPS, out)
    assert torch.equal(residual, expected_sum)
    in_torch = _in_torch(residual, weight, bias_or_none, True).to(dtype)
    assert_as_exact_as_torch(out, in_torch, _exact(residual, weight, bias_or_none, True))


@pytest.mark.parametrize("is_layer_norm", [False, True])
@pytest.mark.parametrize("has_delta", [False, True])
def test_some_rows(device: torch.device, is_layer_norm: bool, has_delta: bool) -> None:
    """The bits of these rows among all, and nothing is added in place."""
    residual, other = torch.randn(2, 9, 576, device=device)
    delta = other if has_delta else None
    weight, bias = torch.randn(2, 576, device=device)
    norm = partial(layer_norm, bias=bias) if is_layer_norm else rms_norm
    before, added = residual.clone(), residual.clone()
    everything = poisoned(9, 576, dtype=torch.float16, device=device)
    norm(added, delta, weight, eps=EPS, out=everything)
    rows = torch.tensor([8, 0, 3, 3], dtype=torch.int32, device=device)
    out = poisoned(4, 576, dtype=torch.float16, device=device)
    norm(residual, delta, weight, eps=EPS, out=out, rows=rows)
    assert torch.equal(out, everything[rows.long()])
    assert torch.equal(residual, before)


@pytest.mark.parametrize("is_layer_norm", [False, True])
def test_a_rows_bits_do_not_depend_on_other_rows(device: torch.device, is_layer_norm: bool) -> None:
    x, weight = torch.randn(9, 576, device=device), torch.randn(576, device=device)
    norm = partial(layer_norm, bias=None) if is_layer_norm else rms_norm
    together, alone = (poisoned(9, 576, dtype=torch.bfloat16, device=device) for _ in range(2))
    norm(x.clone(), None, weight, eps=EPS, out=together)
    for row in range(9):
        norm(x[row : row + 1].clone(), None, weight, eps=EPS, out=alone[row : row + 1])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("head_dim", [8, 40, 128, 256])
@pytest.mark.parametrize(("first_head", "num_heads"), [(0, 3), (3, 1), (1, 4), (5, 0)])
def test_head_rms_norm(device: torch.device, head_dim: int, first_head: int, num_heads: int) -> None:
    torch.manual_seed(head_dim)
    qkv, weight = torch.randn(7, 5 * head_dim + 3, device=device), torch.randn(head_dim, device=device)
    before, normed = qkv.clone(), slice(first_head * head_dim, (first_head + num_heads) * head_dim)
    head_rms_norm(qkv, weight, EPS, first_head, num_heads, head_dim)
    if num_heads > 0:
        heads = before[:, normed].reshape(7, num_heads, head_dim)
        expected = (norm(heads, weight, None, False).flatten(1) for norm in (_in_torch, _exact))
        assert_as_exact_as_torch(qkv[:, normed], *expected)
    qkv[:, normed] = before[:, normed]
    assert torch.equal(qkv, before)


def test_a_heads_bits_do_not_depend_on_other_heads(device: torch.device) -> None:
    before, weight = torch.randn(3, 6 * 64, device=device), torch.randn(64, device=device)
    together, alone = before.clone(), before.clone()
    head_rms_norm(together, weight, EPS, 1, 4, 64)
    for row in range(3):
        for head in range(1, 5):
            head_rms_norm(alone[row : row + 1], weight, EPS, head, 1, 64)
    assert torch.equal(together, alone)


def test_heads_and_rows_are_checked(device: torch.device) -> None:
    x, weight = torch.randn(2, 24, device=device), torch.randn(8, device=device)
    for first_head, num_heads in [(2, 2), (-1, 1), (0, -1)]:
        with pytest.raises(ValueError, match="heads of size 8"):
            head_rms_norm(x, weight, EPS, first_head, num_heads, 8)
    rows = torch.tensor([0, 1, 0], dtype=torch.int32, device=device)
    with pytest.raises(ValueError, match="out must have the shape"):
        rms_norm(x, None, torch.randn(24, device=device), EPS, torch.empty_like(x), rows)
