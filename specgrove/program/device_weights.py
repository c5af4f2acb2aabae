"""Where weights lie for a decoder that runs on a GPU: all on it, or (offloading) what doesn't fit in pinned host memory.

What runs there are the kernels for GPUs, where there are some for the model, else ops composed from torch's own, which expand
quantised weights for every use. ``StreamedWeights`` copies a unit ahead on a stream of its own, so that copies and computation overlap;
quantised weights travel compressed. ``Copies`` is the line between the plan, which is tested without a GPU, and the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import torch

from specgrove.kernels.cuda.linear import LinearWorkspace, PackedDeviceLinear, can_pack
from specgrove.kernels.torch_linear import TorchLinear
from specgrove.models.decoder.parameters import Weight
from specgrove.program.backend import Executable
from specgrove.program.cuda import CudaProgram
from specgrove.program.linears import Linear
from specgrove.program.program import Program
from specgrove.program.stores import chosen_residents
from specgrove.program.tensor_group import TensorGroup
from specgrove.program.torch_backend import TorchWeights

_ALIGNMENT = 256  # of a tensor in a buffer


DeviceLinear: TypeAlias = TorchLinear | PackedDeviceLinear


class DeviceWeights(TorchWeights):
    """All on the device."""

    def __init__(self, device: torch.device, *, has_kernels: bool = False) -> None:
        """``has_kernels``: those for GPUs run; on the CPU, by their emulator."""
        super().__init__(device)
        self.has_kernels = has_kernels
        self._workspace = LinearWorkspace(device)

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """See ``WeightStore``."""
        linear = self._made(weight, bias, dtype)
        linear.parts = tuple(part.to(self.device) for part in linear.parts)
        return linear

    def executable(self, program: Program, group: TensorGroup) -> Executable:
        """See ``WeightStore``. Raises ``ValueError`` for a model that the kernels can't run."""
        if not self.has_kernels:
            return super().executable(program, group)
        return CudaProgram(program, self.device, group, self.will_run)

    def _made(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> DeviceLinear:
        """With its parts anywhere."""
        if self.has_kernels and can_pack(weight):
            bias = None if bias is None else self.vector(bias)
            return PackedDeviceLinear(weight, bias, dtype, self.device, self._workspace)
        return self.made_by_torch(weight, bias, dtype)


class Copies(Protocol):
    """Copies to a device that run beside its computation, in their order."""

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        """uint8 host memory to copy from."""
        ...

    def copy(self, source: torch.Tensor, target: torch.Tensor, ticket: int) -> None:
        """Begins one, after all computation that was begun before; ``wait`` takes the ticket."""
        ...

    def wait(self, ticket: int) -> None:
        """Computation that is begun from now on comes after the copy."""
        ...


class StreamCopies:
    """On a second CUDA stream, from pinned memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copied: dict[int, torch.cuda.Event] = {}

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        """See ``Copies``."""
        return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, source: torch.Tensor, target: torch.Tensor, ticket: int) -> None:
        """See ``Copies``."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)
        self._copied[ticket] = self._stream.record_event()

    def wait(self, ticket: int) -> None:
        """See ``Copies``."""
        torch.cuda.current_stream(self._device).wait_event(self._copied[ticket])


class StreamedWeights(DeviceWeights):
    """At most ``max_bytes`` of tables and linears on the device; the other linears in host memory.

    Tables are always on the device, and never less than the two largest units: units that are not share two buffers, by turns.
    """

    is_streamed = True

    def __init__(
        self, device: torch.device, max_bytes: int, copies: Copies | None = None, *, has_kernels: bool = False
    ) -> None:
        super().__init__(device, has_kernels=has_kernels)
        self._max_bytes = max_bytes
        self._copies = copies or StreamCopies(device)
        self._unit: list[DeviceLinear] = []
        self._units: list[_Unit] = []
        self._table_bytes = 0
        self._streamed: list[int] = []
        self._buffers: tuple[torch.Tensor, ...] = ()
        self._held: list[int | None] = [None, None]  # which unit a buffer holds, or is being filled with

    @property
    def num_bytes(self) -> int:
        """Bytes of all units."""
        return sum(unit.num_bytes for unit in self._units)

    @property
    def device_bytes(self) -> int:
        """Bytes of the tables, of the units that stay on the device, and of the two buffers, after ``end``."""
        resident = sum(unit.num_bytes for index, unit in enumerate(self._units) if index not in self._streamed)
        return self._table_bytes + resident + sum(buffer.nbytes for buffer in self._buffers)

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """See ``WeightStore``."""
        linear = self._made(weight, bias, dtype)
        self._unit.append(linear)
        return linear

    def table(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See ``WeightStore``."""
        table = super().table(rows, dtype)
        self._table_bytes += table.nbytes
        return table

    def end_unit(self) -> None:
        """See ``WeightStore``."""
        self._units.append(_Unit(self._unit, self._copies))
        self._unit = []

    def end(self) -> None:
        """See ``WeightStore``."""
        sizes = [unit.num_bytes for unit in self._units]
        resident = chosen_residents(sizes, self._max_bytes - self._table_bytes)
        self._streamed = [index for index in range(len(sizes)) if index not in resident]
        for index in resident:
            self._units[index].move(self.device)
        largest = max((sizes[index] for index in self._streamed), default=0)
        self._buffers = tuple(
            torch.empty(largest, dtype=torch.uint8, device=self.device) for _ in range(2 if largest else 0)
        )
        for turn, index in enumerate(self._streamed):
            self._units[index].view_in(self._buffers[turn % 2])

    def will_run(self, unit: int) -> None:
        """See ``WeightStore``."""
        if unit not in self._streamed:
            return
        turn = self._streamed.index(unit)
        self._fill(turn)
        self._copies.wait(unit)
        following = (turn + 1) % len(self._streamed)
        if following % 2 != turn % 2:  # else it takes this unit's buffer, when this one has run
            self._fill(following)

    def _fill(self, turn: int) -> None:
        unit = self._streamed[turn]
        if self._held[turn % 2] == unit:
            return
        source = self._units[unit].host
        self._copies.copy(source, self._buffers[turn % 2][: len(source)], unit)
        self._held[turn % 2] = unit


class _Unit:
    """Linears whose tensors stand one after the other in one piece of host memory."""

    def __init__(self, linears: Sequence[DeviceLinear], copies: Copies) -> None:
        self._linears = linears
        self.num_bytes = sum(_aligned(part.nbytes) for linear in linears for part in linear.parts)
        self.host = copies.host_buffer(self.num_bytes)
        parts = (part for linear in linears for part in linear.parts)
        for part, piece in zip(parts, self._pieces(self.host), strict=True):
            piece.copy_(part.reshape(-1).view(torch.uint8))
        self.view_in(self.host)

    def _pieces(self, buffer: torch.Tensor) -> list[torch.Tensor]:
        pieces, start = [], 0
        for linear in self._linears:
            for part in linear.parts:
                pieces.append(buffer[start : start + part.nbytes])
                start += _aligned(part.nbytes)
        return pieces

    def view_in(self, buffer: torch.Tensor) -> None:
        """The linears' tensors are in ``buffer`` from now on."""
        pieces = iter(self._pieces(buffer))
        for linear in self._linears:
            linear.parts = tuple(next(pieces).view(part.dtype).view(part.shape) for part in linear.parts)

    def move(self, device: torch.device) -> None:
        """To the device for good."""
        self.view_in(self.host.to(device))
        self.host = torch.empty(0, dtype=torch.uint8)  # a view would keep the memory


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
