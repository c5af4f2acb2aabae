"""The check at a service's start: passes where kernels are right, and names each that is not."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from specgrove.kernels.cuda import attention, choices, start_check
from specgrove.kernels.cuda.linear import PackedDeviceLinear
from specgrove.kernels.cuda.start_check import KernelsWrongError, check_kernels, check_kernels_apart
from specgrove.kernels.device_memory import AttentionHeads

HEADS = AttentionHeads(4, 2, 64)
CPU = torch.device("cpu")


def make_wrong(module: ModuleType, name: str, output: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the first number of the kernel's output is another."""
    right = getattr(module, name)

    def wrong(*arguments: Any) -> None:
        right(*arguments)
        arguments[output].view(-1)[0] += 5

    monkeypatch.setattr(module, name, wrong)


def test_right_kernels_pass(device: torch.device) -> None:
    """In float16; in bfloat16 they do in a process of its own, below."""
    check_kernels(HEADS, torch.float16, device)


@pytest.fixture
def only_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the checks of attention and linears, which come first and take the emulator seconds."""
    for check in ("_check_attention", "_check_linear"):
        monkeypatch.setattr(start_check, check, lambda *_: None)


def test_wrong_attention_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    make_wrong(attention, "tree_attention", 5, monkeypatch)
    with pytest.raises(KernelsWrongError, match="tree attention differs"):
        check_kernels(HEADS, torch.bfloat16, CPU)


@pytest.mark.usefixtures("only_small_ones")
@pytest.mark.parametrize(
    ("module", "name", "output", "message"),
    [
        (choices, "take_choices", 0, "are not taken over"),
        (choices, "choose", 4, "the choice of tokens differs"),
        (choices, "top_k_log_probs", 3, "the most probable tokens differ"),
    ],
)
def test_a_wrong_kernel_is_named(
    module: ModuleType, name: str, output: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wrong(module, name, output, monkeypatch)
    with pytest.raises(KernelsWrongError, match=message):
        check_kernels(HEADS, torch.bfloat16, CPU)


@pytest.mark.usefixtures("only_small_ones")
@pytest.mark.parametrize(
    ("kernel", "given", "output", "message"),
    [
        ("AddNorm", {"kind": "rms"}, "out", "the RMS norm differs"),
        ("AddNorm", {"kind": "layer"}, "out", "the layer norm differs"),
        ("RotateStore", {}, "v_cache", "the rotary embedding differs"),
        ("Embed", {}, "out", "the embedding differs"),
    ],
)
def test_a_wrong_kernel_of_an_op_is_named(
    kernel: str, given: dict[str, Any], output: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = start_check.launch

    def wrong(name: str, **fields: Any) -> None:
        right(name, **fields)
        if name == kernel and given.items() <= fields.items():
            fields[output].view(-1)[0] += 5

    monkeypatch.setattr(start_check, "launch", wrong)
    with pytest.raises(KernelsWrongError, match=message):
        check_kernels(HEADS, torch.bfloat16, CPU)


def test_rows_that_depend_on_others_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = PackedDeviceLinear.__call__

    def wrong(self: PackedDeviceLinear, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return right(self, x, out) * (1 + 1e-6 * (len(x) > 8))

    monkeypatch.setattr(start_check, "_check_attention", lambda *_: None)  # takes the emulator seconds
    monkeypatch.setattr(PackedDeviceLinear, "__call__", wrong)
    with pytest.raises(KernelsWrongError, match="the linear over 16 bits gives a row other bits alone"):
        check_kernels(HEADS, torch.bfloat16, CPU)


@pytest.mark.usefixtures("only_small_ones")
def test_what_a_device_fails_with_is_said_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")

    monkeypatch.setattr(choices, "choose", fails)
    with pytest.raises(
        KernelsWrongError, match=r"^choices of tokens: CUDA error: an illegal memory access was encountered$"
    ):
        check_kernels(HEADS, torch.bfloat16, CPU)


def test_in_a_process_of_its_own(device: torch.device) -> None:
    check_kernels_apart(HEADS, torch.bfloat16, device)


def test_a_check_that_hangs_is_given_up() -> None:
    with pytest.raises(KernelsWrongError, match="did not end within"):
        check_kernels_apart(HEADS, torch.bfloat16, CPU, timeout_s=0.01)


@pytest.mark.parametrize(
    ("program", "message"), [("exit 7", "ended with code 7"), ("echo note >&2; echo wrong >&2; exit 1", "^wrong$")]
)
def test_a_check_that_dies_is_a_failure(
    program: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(KernelsWrongError, match=message):
        check_kernels_apart(HEADS, torch.bfloat16, CPU)
