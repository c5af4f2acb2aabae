"""A step is given time by what it computes: the slowest machine's largest pass is no hang."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llm_service.arguments import parse_arguments
from llm_service.pass_timeout import pass_timeout_s_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("flags", "num_parameters", "device", "expected"),
    [
        ([], 135e6, CPU, 120.0),
        ([], 7.6e9, CPU, pytest.approx(1167, abs=1)),
        (["--max-chunk-tokens", "128", "--max-tree-rows", "256"], 7.6e9, CPU, pytest.approx(584, abs=1)),
        ([], 70e9, GPU, 120.0),
        (["--offload"], 135e6, CPU, 1800.0),
        (["--offload"], 70e9, CPU, pytest.approx(10752, abs=1)),
        (["--pass-timeout-s", "5"], 70e9, CPU, 5.0),
    ],
)
def test_the_limit_grows_with_the_work(flags: list[str], num_parameters: float, device: Any, expected: float) -> None:
    config = parse_arguments(flags)
    spec: Any = SimpleNamespace(num_parameters=num_parameters)
    assert pass_timeout_s_of(config, spec, device) == expected
