"""Every kernel test runs on each path the processor has and on the twin of AMX, and leaves the settings as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from specgrove.kernels import threads


@pytest.fixture(params=["amx", "amx_twin", "avx512", "avx2", "plain"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = threads.get_isa()
    try:
        threads.set_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    threads.set_isa(before)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before, torch_before = threads.get_num_threads(), torch.get_num_threads()
    threads.set_num_threads(2)
    torch.set_num_threads(1)  # the references are many small operations, which torch's threads only slow down
    yield
    threads.set_num_threads(before)
    torch.set_num_threads(torch_before)
