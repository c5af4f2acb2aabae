"""Where kernels for GPUs are tested: in the emulator, which runs their sources on the host, and on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.devices import DEVICES


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    """ "cpu" is the emulator."""
    return torch.device(request.param)


def poisoned(*shape: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """An output that was never written."""
    return torch.full(shape, torch.nan, dtype=dtype, device=device)


def assert_as_exact_as_torch(found: torch.Tensor, at_same_precision: torch.Tensor, exact: torch.Tensor) -> None:
    """The error to float64 is at most twice that of the same computation in torch at the same precision."""
    error = (found.double() - exact).abs().max().item()
    allowed = (at_same_precision.double() - exact).abs().max().item()
    assert error <= 2 * allowed + 1e-7 * exact.abs().max().item(), f"error {error:.3g}, torch's {allowed:.3g}"
