"""The check at a service's start: passes where kernels are right, and names each that is not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from specgrove.kernels.cuda import attention, choices, elementwise, norms
from specgrove.kernels.cuda.attention import AttentionHeads
from specgrove.kernels.cuda.linear import PackedDeviceLinear
from specgrove.kernels.cuda.start_check import KernelsWrongError, check_kernels

HEADS = AttentionHeads(4, 2, 64)
CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_right_kernels_pass(device: torch.device, dtype: torch.dtype) -> None:
    check_kernels(HEADS, dtype, device)


@pytest.mark.parametrize(
    ("module", "name", "output", "message"),
    [
        (attention, "tree_attention", 5, "tree attention differs"),
        (norms, "rms_norm", 4, "the RMS norm differs"),
        (norms, "layer_norm", 5, "the layer norm differs"),
        (elementwise, "gated", 2, "the gated activation differs"),
        (elementwise, "rotate_and_store", 5, "the rotary embedding differs"),
        (choices, "choose", 4, "the choice of tokens differs"),
        (choices, "top_k_log_probs", 3, "the most probable tokens differ"),
    ],
)
def test_a_wrong_kernel_is_named(
    module: ModuleType, name: str, output: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(module, name)

    def wrong(*arguments: Any) -> None:
        right(*arguments)
        arguments[output].view(-1)[0] += 5

    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(KernelsWrongError, match=message):
        check_kernels(HEADS, torch.bfloat16, CPU)


def test_rows_that_depend_on_others_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PackedDeviceLinear.__call__

    def wrong(self: PackedDeviceLinear, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return right(self, x, out) * (1 + 1e-6 * (len(x) > 8))

    monkeypatch.setattr(PackedDeviceLinear, "__call__", wrong)
    with pytest.raises(KernelsWrongError, match="the linear over 16 bits gives a row other bits alone"):
        check_kernels(HEADS, torch.bfloat16, CPU)
