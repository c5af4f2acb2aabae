"""The part of the check at a service's start that ops bring along, and its command."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from specgrove.kernels.cuda.backend import kernels_for
from specgrove.kernels.cuda.start_check import KernelsWrongError
from specgrove.program import start_check
from specgrove.program.op import Op
from specgrove.program.start_check import check_ops, kinds

CPU = torch.device("cpu")
# Their kernels take rows, ids or slots beside the fields: ``specgrove.kernels.cuda.start_check`` knows them.
COMPARED_BY_HAND = {"Norm", "AddNorm", "Embed", "RotateStore"}


def examples_of(kind: type[Op]) -> list[Any]:
    return list(kind.examples(lambda *shape: torch.ones(shape)))


def test_right_kernels_pass(device: torch.device) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        check_ops(dtype, device)


def test_no_kernel_of_an_op_goes_without_a_comparison() -> None:
    has_kernel = kernels_for(CPU).has_kernel
    with_kernel = {kind.__name__ for kind in kinds() if has_kernel(kind.__name__)}
    assert with_kernel == COMPARED_BY_HAND | {kind.__name__ for kind in kinds() if examples_of(kind)}


@pytest.mark.parametrize("kind", [kind for kind in kinds() if examples_of(kind)])
def test_a_wrong_kernel_is_named(kind: type[Op], monkeypatch: pytest.MonkeyPatch) -> None:
    right = start_check.launch
    (*_, last) = examples_of(kind)
    (written,) = last.op.written
    name = next(field for field in ("out", "x") if getattr(last.op, field, None) == written)

    def wrong(kernel: str, **fields: Any) -> None:
        right(kernel, **fields)
        if kernel == kind.__name__:
            fields[name].view(-1)[-1] += 5

    monkeypatch.setattr(start_check, "launch", wrong)
    with pytest.raises(KernelsWrongError, match=f"the op {kind.__name__} differs from torch by"):
        check_ops(torch.bfloat16, CPU)


def test_its_command_names_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*_: object) -> None:
        raise KernelsWrongError("the op Scale differs\nby much")

    monkeypatch.setattr(start_check, "check_kernels", lambda *_: None)
    monkeypatch.setattr(start_check, "check_ops", fails)
    assert start_check.main(["4", "2", "64", "bfloat16", "cpu"]) == 1
    assert capsys.readouterr().err == "the op Scale differs\n"
