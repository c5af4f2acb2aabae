"""What an op of a pass is: a frozen dataclass whose fields say which buffers it reads and writes. The ops themselves are in ``ops``.

All that is alike for them goes by these fields: how wide buffers are, which weights a program has, what crosses to native code
(``native_fields``). So nobody has a list of ops; backends only say what each does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

import torch

from specgrove.kernels.device_memory import AttentionHeads
from specgrove.models.decoder.parameters import NormWeights
from specgrove.program.linears import Linear

_T = TypeVar("_T")

Buffer: TypeAlias = int
"""The place of a buffer in ``Program.buffers``."""
Read: TypeAlias = Annotated[Buffer, "read"]
Written: TypeAlias = Annotated[Buffer, "written"]
Changed: TypeAlias = Annotated[Buffer, "read", "written"]
OnHost: TypeAlias = Annotated[_T, "host"]
"""A field that native code is not told."""

Widths: TypeAlias = Mapping[Buffer, int]
"""Numbers of a row, by buffer."""

Random: TypeAlias = Callable[..., torch.Tensor]
"""Of a shape, a tensor of normal random numbers, float32."""


@dataclass(frozen=True, slots=True)
class Example:
    """A small op, how wide what it reads is, and which of its buffers are made for linears: they have the model's dtype on a GPU."""

    op: Op
    inputs: Widths
    rounded: tuple[Buffer, ...] = ()


@dataclass(frozen=True, slots=True)
class Op:
    """Of one pass. Buffers are fields of the types ``Read``, ``Written`` and ``Changed``, or tuples of them."""

    is_of_all_rows: ClassVar[bool] = False
    """Its ids, positions or slots are those of all rows of a pass, so it stands before rows are taken."""
    takes_rows: ClassVar[bool] = False
    """Behind it the rows are those that are asked for something, and only the buffers that it names hold them."""
    ends_segment: ClassVar[bool] = False
    """It needs somebody else than the backend's kernels."""

    @property
    def read(self) -> tuple[Buffer, ...]:
        """The buffers whose numbers it reads."""
        return tuple(self._buffers("read"))

    @property
    def written(self) -> tuple[Buffer, ...]:
        """The buffers that it writes to, those that it changes among them."""
        return tuple(self._buffers("written"))

    @property
    def linears(self) -> tuple[Linear, ...]:
        """By which it multiplies."""
        return tuple(value for field in fields(self) if hasattr(value := getattr(self, field.name), "in_features"))

    def leaves(self, held: Held) -> Widths:
        """Numbers of a row in the buffers that it writes anew; ``held``: what buffers hold when it begins.

        Raises ``ValueError`` for what doesn't fit together.
        """
        return {}

    def row_limits(self) -> Mapping[str, int]:
        """What it looks up: numbers of these arrays of a pass must be below these."""
        return {}

    @classmethod
    def examples(cls, random: Random) -> Iterator[Example]:
        """By them a kernel of its own for GPUs is compared with torch when a service starts (``start_check``).

        None for ops without one, and for those whose kernels take more than their fields: these are compared where the kernels are.
        """
        yield from ()

    def _buffers(self, mark: str) -> Iterator[Buffer]:
        for name, marks in marks_of(type(self)).items():
            if mark in marks:
                value = getattr(self, name)
                yield from value if isinstance(value, tuple) else (value,)


_MARKS: dict[type[Op], Mapping[str, frozenset[str]]] = {}  # found once


def marks_of(kind: type[Op]) -> Mapping[str, frozenset[str]]:
    """What the types of its fields say of each: ``read``, ``written``, ``host``; of most nothing."""
    if kind not in _MARKS:
        hints = get_type_hints(kind, include_extras=True)
        _MARKS[kind] = {field.name: _marks(hints[field.name]) for field in fields(kind)}
    return _MARKS[kind]


def _marks(hint: Any) -> frozenset[str]:
    if get_origin(hint) is tuple:
        return _marks(get_args(hint)[0])
    return frozenset(getattr(hint, "__metadata__", ()))


class Held:
    """What buffers hold, from op to op. A buffer may hold rows of one width at one op and of another at the next."""

    def __init__(self, heads: AttentionHeads, num_layers: int) -> None:
        """``heads`` and ``num_layers`` are those of the caches."""
        self.heads, self.num_layers = heads, num_layers
        self.has_taken_rows = False
        self._widths: Widths = {}

    def __getitem__(self, buffer: Buffer) -> int:
        """Numbers of a row. Raises ``ValueError`` where nothing was written."""
        if buffer not in self._widths:
            raise ValueError(f"nothing has been written to buffer {buffer}")
        return self._widths[buffer]

    def check(self, buffer: Buffer, width: int) -> None:
        """Raises ``ValueError`` unless the buffer holds so many numbers of a row."""
        if self[buffer] != width:
            raise ValueError(f"buffer {buffer} must hold {width} numbers of a row, but holds {self[buffer]}")

    def check_inputs(self, buffer: Buffer, in_features: int) -> None:
        """Raises ``ValueError`` unless a linear of so many inputs can read the buffer."""
        if in_features != self[buffer]:
            raise ValueError(f"the linear must have {self[buffer]} inputs, got {in_features}")

    def check_cache(self, layer: int, heads: AttentionHeads) -> None:
        """Raises ``ValueError`` unless the pass has caches of this layer, for these heads."""
        if not 0 <= layer < self.num_layers:
            raise ValueError(f"the program has caches of {self.num_layers} layers, not of layer {layer}")
        if heads != self.heads:
            raise ValueError(f"the program has caches for {self.heads}, not for {heads}")

    def check_rows_taken(self) -> None:
        """Raises ``ValueError`` where all rows of the pass are still there."""
        if not self.has_taken_rows:
            raise ValueError("rows must be taken before")

    def follow(self, op: Op, room: Sequence[int] | None) -> Widths:
        """What buffers hold for this op: what it finds in those that it reads, and what it leaves. See ``follow``."""
        read = op.read
        for buffer in read:
            self[buffer]
        new = op.leaves(self)
        for buffer in op.written:
            if buffer not in read and buffer not in new:
                raise ValueError(f"how wide buffer {buffer} becomes is not said")
        for buffer, width in new.items():
            if buffer not in op.written:
                raise ValueError(f"buffer {buffer} gets a width, but is none that it writes")
            if buffer in read:
                raise ValueError(f"buffer {buffer} can't be read and written at the same time")
            _check_room(buffer, width, room)
        seen = {**self._widths, **new}
        self.has_taken_rows = self.has_taken_rows or op.takes_rows
        self._widths = {buffer: seen[buffer] for buffer in op.written} if op.takes_rows else seen
        return seen


def follow(
    ops: Iterable[Op], heads: AttentionHeads, num_layers: int, room: Sequence[int] | None = None
) -> Iterator[Widths]:
    """What buffers hold for each op, in order. ``room``: numbers of a row that every buffer has room for, where that is known.

    Raises ``ValueError`` for an op that doesn't fit what it finds.
    """
    held = Held(heads, num_layers)
    for place, op in enumerate(ops):
        try:
            yield held.follow(op, room)
        except ValueError as error:
            raise error_of(place, op, error) from error


def error_of(place: int, op: Op, error: ValueError) -> ValueError:
    """What is wrong, and with which op."""
    return ValueError(f"op {place} of the program, {type(op).__name__}: {error}")


def check_norm(kind: str, weights: NormWeights, size: int) -> None:
    """Raises ``ValueError`` for weights of a norm of another size or kind."""
    check_shape(weights.scale, "scale", size)
    if weights.shift is not None and kind == "rms":
        raise ValueError("an RMS norm has no shift")
    check_shape(weights.shift, "shift", size)


def check_shape(tensor: torch.Tensor | None, name: str, *shape: int) -> None:
    """Raises ``ValueError`` for a tensor of another shape."""
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(tensor.shape)}")


def _check_room(buffer: Buffer, width: int, room: Sequence[int] | None) -> None:
    if room is None:
        return
    if not 0 <= buffer < len(room):
        raise ValueError(f"there is no buffer {buffer}")
    if width > room[buffer]:
        raise ValueError(f"buffer {buffer} has room for {room[buffer]} numbers of a row, not for {width}")
