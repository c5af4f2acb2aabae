"""An op as native code takes it: fields by name, made from the dataclass. So a kind of op needs no code here, and no binding.

Used by the backends of native kernels. What each kind reads of its fields is said where its kernel is, in csrc.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeAlias, TypeVar

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.op import Buffer, Op, marks_of

_T = TypeVar("_T")
Fields: TypeAlias = dict[str, Any]
"""Tensors, numbers, texts, linears and ``None``, by name."""


def native_fields(op: Op) -> Fields:
    """All but its buffers and what is told nobody but the host. Weights of norms and sizes of heads are taken apart."""
    found: Fields = {}
    for name, marks in marks_of(type(op)).items():
        if marks:
            continue
        value = getattr(op, name)
        if isinstance(value, NormWeights | AttentionHeads):
            found.update({field.name: getattr(value, field.name) for field in fields(value)})
        else:
            found[name] = value
    return found


def buffer_fields(op: Op, told: Callable[[Buffer], _T]) -> dict[str, _T | list[_T]]:
    """Its buffers by name, each as ``told`` makes it."""
    found: dict[str, _T | list[_T]] = {}
    for name, marks in marks_of(type(op)).items():
        if marks & {"read", "written"}:
            value = getattr(op, name)
            found[name] = [told(place) for place in value] if isinstance(value, tuple) else told(value)
    return found
