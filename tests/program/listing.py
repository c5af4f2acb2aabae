"""A program as text, one line per op: what it writes and reads by name, weights by their shape."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch

from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.op import Op, marks_of
from specgrove.program.program import Program


def listing(program: Program) -> list[str]:
    """E.g. ``Multiply wide <- 48x80(normed)``."""
    return [_line(op, program) for op in program.ops]


def _line(op: Op, program: Program) -> str:
    words = [type(op).__name__]
    for field in fields(op):
        text = _text(
            getattr(op, field.name),
            is_buffer=bool(marks_of(type(op))[field.name] & {"read", "written"}),
            program=program,
        )
        if text is not None:
            words.append(f"{field.name}={text}" if text else field.name)
    return " ".join(words)


def _text(value: Any, *, is_buffer: bool, program: Program) -> str | None:
    """``None`` for what is off."""
    if is_buffer:
        places = value if isinstance(value, tuple) else (value,)
        return ",".join(program.buffers[place].name for place in places)
    if value is None or value is False:
        return None
    if value is True:
        return ""
    if isinstance(value, torch.Tensor):
        return "x".join(map(str, value.shape))
    if isinstance(value, NormWeights):
        return f"{value.scale.shape[0]}" + ("" if value.shift is None else " with shift")
    if hasattr(value, "in_features"):
        return f"{value.in_features}->{value.out_features}"
    if hasattr(value, "num_kv_heads"):
        return f"{value.num_heads}/{value.num_kv_heads}x{value.head_dim}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
