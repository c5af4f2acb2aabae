"""Norms against float64, and the bits of a row alone."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels.cuda.norms import rms_norm
from tests.kernels.cuda.conftest import assert_as_exact_as_torch, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-5


def _exact(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x.double(), x.shape[-1:], weight.double(), EPS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("num_rows", "size"), [(1, 1), (3, 48), (7, 576), (2, 4096)])
@pytest.mark.parametrize("has_delta", [False, True])
def test_rms_norm(device: torch.device, dtype: torch.dtype, num_rows: int, size: int, has_delta: bool) -> None:
    torch.manual_seed(num_rows)
    residual, delta = torch.randn(2, num_rows, size, device=device)
    weight = torch.randn(size, device=device)
    expected_sum = residual + delta if has_delta else residual.clone()
    out = poisoned(num_rows, size, dtype=dtype, device=device)
    rms_norm(residual, delta if has_delta else None, weight, EPS, out)
    assert torch.equal(residual, expected_sum)
    in_torch = torch.nn.functional.rms_norm(residual, (size,), weight, EPS).to(dtype)
    assert_as_exact_as_torch(out, in_torch, _exact(residual, weight))


def test_a_rows_bits_do_not_depend_on_other_rows(device: torch.device) -> None:
    x, weight = torch.randn(9, 576, device=device), torch.randn(576, device=device)
    together, alone = (poisoned(9, 576, dtype=torch.bfloat16, device=device) for _ in range(2))
    rms_norm(x.clone(), None, weight, EPS, together)
    for row in range(9):
        rms_norm(x[row : row + 1].clone(), None, weight, EPS, alone[row : row + 1])
    assert torch.equal(together, alone)
