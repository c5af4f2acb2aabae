"""Every kernel test runs on each path the processor has and on the twin of AMX, and leaves the settings as they were."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels import threads


@pytest.fixture(autouse=True)
def two_threads(kernel_settings: None) -> None:
    threads.set_num_threads(2)
    torch.set_num_threads(1)  # the references are many small operations, which torch's threads only slow down


ISAS = ("amx", "amx_twin", "avx512", "avx2", "plain")


def can_run(isa: str) -> bool:
    """Here; the settings stay as they are."""
    try:
        threads.check_isa(isa)
    except ValueError:
        return False
    return True


def choose(isa: str) -> str:
    """Until the test ends."""
    try:
        threads.set_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    return isa


@pytest.fixture(params=[isa for isa in ISAS if can_run(isa)])
def isa(request: pytest.FixtureRequest, two_threads: None) -> str:
    return choose(request.param)


@pytest.fixture
def on_twin(two_threads: None) -> None:
    choose("amx_twin")


@pytest.fixture
def on_amx(two_threads: None) -> None:
    choose("amx")
