"""Where a program's weights lie: in memory, or in a mapped file of which only so much is in memory at a time.

``build`` takes every weight through a ``WeightStore``, which also says by which backend the program runs. A program that runs tells it
which unit (the embedding, a layer, the head) is used next.
``MappedWeights`` is for models that are larger than the memory: the units that fit stay, the others are read a unit ahead and dropped
after use. The stores of other devices are in ``specgrove.program.device_weights``.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import torch

from specgrove.kernels.linear import PackedLinear
from specgrove.kernels.quantized_linear import QuantizedLinear, QuantizedWeight
from specgrove.models.decoder.parameters import Weight
from specgrove.models.folders.disk_room import DiskNeed, told_when_full
from specgrove.program.backend import Executable
from specgrove.program.cpu import CpuProgram
from specgrove.program.linears import Linear
from specgrove.program.program import Program
from specgrove.program.tensor_group import TensorGroup

_PAGE_BYTES = mmap.PAGESIZE
_OFFLOADING = DiskNeed("offloading the weights")
_CHUNK_BYTES = 8 << 20  # of a weight that is packed at a time
_GROUP_ROWS = 32  # outputs that are packed together: chunks of whole groups stand one after the other


class WeightStore(Protocol):
    """Weights come in unit by unit, in the order of their use; ``end_unit`` after each."""

    @property
    def device(self) -> torch.device:
        """Where the program runs."""
        ...

    @property
    def is_streamed(self) -> bool:
        """Whether ``will_run`` must be called between units."""
        ...

    @property
    def takes_rows_early(self) -> bool:
        """Whether only rows that are asked for something go through all of the last layer."""
        ...

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """Quantised weights stay as they are, others are rounded to ``dtype``."""
        ...

    def table(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """An embedding, rounded to ``dtype``; rows of it are read here and there."""
        ...

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        """A norm's scale and the like, in float32: small, and always there."""
        ...

    def end_unit(self) -> None:
        """What came since the last call is one unit."""
        ...

    def end(self) -> None:
        """All units have come."""
        ...

    def will_run(self, unit: int) -> None:
        """A unit, by its number, runs next."""
        ...

    def executable(self, program: Program, group: TensorGroup) -> Executable:
        """The program, whose weights all came from here, made ready to run among the ranks of ``group``."""
        ...


class MemoryWeights:
    """All in memory."""

    device = torch.device("cpu")
    is_streamed = False
    takes_rows_early = True

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """See ``WeightStore``."""
        bias = None if bias is None else self.vector(bias)
        if isinstance(weight, QuantizedWeight):
            return QuantizedLinear(weight, bias)
        return PackedLinear(weight.to(dtype), bias)

    def table(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See ``WeightStore``."""
        return rows.to(dtype).contiguous()

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        """See ``WeightStore``."""
        return values.float().contiguous()

    def end_unit(self) -> None:
        """See ``WeightStore``."""

    def end(self) -> None:
        """See ``WeightStore``."""

    def will_run(self, unit: int) -> None:
        """See ``WeightStore``."""

    def executable(self, program: Program, group: TensorGroup) -> Executable:
        """See ``WeightStore``."""
        return CpuProgram(program, group, self.will_run)


@dataclass(frozen=True, slots=True)
class _Region:
    """Mapped bytes of the file."""

    mapped: mmap.mmap

    @property
    def num_bytes(self) -> int:
        return len(self.mapped)

    def read_ahead(self) -> None:
        self.mapped.madvise(mmap.MADV_WILLNEED)

    def drop(self) -> None:
        self.mapped.madvise(mmap.MADV_DONTNEED)


class MappedWeights:
    """In a file without a name in ``folder``, of which at most ``max_bytes`` are in memory, and never less than two units."""

    device = torch.device("cpu")
    is_streamed = True
    takes_rows_early = True

    def __init__(self, folder: Path, max_bytes: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  closed with the process
        self._max_bytes = max_bytes
        self._units: list[list[_Region]] = []
        self._unit: list[_Region] = []
        self._resident: set[int] = set()
        self._running: int | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all units."""
        return sum(map(self._unit_bytes, range(len(self._units))))

    @property
    def resident_bytes(self) -> int:
        """Bytes of the units that stay in memory."""
        return sum(map(self._unit_bytes, self._resident))

    def linear(self, weight: Weight, bias: torch.Tensor | None, dtype: torch.dtype) -> Linear:
        """See ``WeightStore``."""
        bias = None if bias is None else self.vector(bias)
        if isinstance(weight, QuantizedWeight):
            shape, chunks = weight.shape(), _quantized_chunks(weight)
            parts = (QuantizedLinear(rows, has_half_scales=shape.has_half_scales).packed() for rows in chunks)
            return QuantizedLinear.from_packed(self._mapped(parts), shape, bias)
        rows_per_chunk = _rows_per_chunk(weight.shape[1] * dtype.itemsize)
        parts = (PackedLinear(rows.to(dtype)).packed() for rows in torch.split(weight, rows_per_chunk))
        return PackedLinear.from_packed(self._mapped(parts), dtype, weight.shape[0], weight.shape[1], bias)

    def table(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """See ``WeightStore``. Single rows are read, so it belongs to no unit, and hardly counts."""
        chunks = torch.split(rows, _rows_per_chunk(rows.shape[1] * dtype.itemsize))
        unit, self._unit = self._unit, []
        packed = self._mapped(chunk.to(dtype).contiguous().view(torch.uint8).flatten() for chunk in chunks)
        for region in self._unit:
            region.mapped.madvise(mmap.MADV_RANDOM)
            region.drop()
        self._unit = unit
        return packed.view(dtype).view(rows.shape)

    def vector(self, values: torch.Tensor) -> torch.Tensor:
        """See ``WeightStore``."""
        return values.float().contiguous()

    def _mapped(self, parts: Iterator[torch.Tensor]) -> torch.Tensor:
        """The parts one after the other, uint8."""
        start = self._file.seek(0, 2)
        with told_when_full(self._folder, _OFFLOADING):
            for part in parts:
                self._file.write(part.numpy().data)
            num_bytes = self._file.tell() - start
            self._file.truncate(start + -(-num_bytes // _PAGE_BYTES) * _PAGE_BYTES)
            self._file.flush()
        # Private and writable only because torch wants writable buffers: nothing is ever written.
        mapped = mmap.mmap(
            self._file.fileno(), num_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=start
        )
        self._unit.append(_Region(mapped))
        return torch.frombuffer(mapped, dtype=torch.uint8)

    def end_unit(self) -> None:
        """See ``WeightStore``."""
        self._units.append(self._unit)
        self._unit = []

    def end(self) -> None:
        """See ``WeightStore``."""
        self._resident = chosen_residents([self._unit_bytes(unit) for unit in range(len(self._units))], self._max_bytes)

    def will_run(self, unit: int) -> None:
        """See ``WeightStore``."""
        if self._running is not None and self._running not in self._resident:
            for region in self._units[self._running]:
                region.drop()
        self._running = unit
        following = (unit + 1) % len(self._units)
        if following not in self._resident:
            for region in self._units[following]:
                region.read_ahead()

    def executable(self, program: Program, group: TensorGroup) -> Executable:
        """See ``WeightStore``."""
        return CpuProgram(program, group, self.will_run)

    def _unit_bytes(self, unit: int) -> int:
        return sum(region.num_bytes for region in self._units[unit])


def chosen_residents(sizes: Sequence[int], max_bytes: int) -> set[int]:
    """The first units that fit beside the two largest: with a fixed cycle of use nothing is better than a fixed choice."""
    if sum(sizes) <= max_bytes:
        return set(range(len(sizes)))
    left = max(0, max_bytes - sum(sorted(sizes)[-2:]))
    residents = set()
    for unit, size in enumerate(sizes):
        if size <= left:
            residents.add(unit)
            left -= size
    return residents


def _rows_per_chunk(row_bytes: int) -> int:
    return max(_GROUP_ROWS, _CHUNK_BYTES // row_bytes // _GROUP_ROWS * _GROUP_ROWS)


def _quantized_chunks(weight: QuantizedWeight) -> Iterator[QuantizedWeight]:
    num_rows = _rows_per_chunk(weight.in_features)
    for start in range(0, weight.out_features, num_rows):
        rows = slice(start, start + num_rows)
        mins = None if weight.mins is None else weight.mins[rows]
        yield QuantizedWeight(weight.codes[rows], weight.scales[rows], mins, weight.bits)
