"""A GGUF file's metadata and tensors as they lie on disk; all parts of a split one together.

Read by ``specgrove.models.folders.gguf_model``, ``specgrove.models.weights.formats`` and ``specgrove.models.folders.hub``. Imports neither
torch nor transformers, and reads no weights: tensors are views of the mapped file. Invariant: a file that opens is whole, and so is the
set of its parts. Source of the layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.missing import not_there
from specgrove.models.folders.model_files import gguf_parts
from specgrove.models.weights.gguf_metadata import GgufMetadata

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MAX_NUM_DIMENSIONS = 4
# By the number in the file: the type's name, weights in a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4),
    27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor. ``shape`` has the outermost dimension first, as in torch; ``data`` is uint8 ``[rows, bytes of a row]``."""

    name: str
    kind: str
    shape: tuple[int, ...]
    data: npt.NDArray[np.uint8]


class GgufFile:
    """All parts of one model."""

    def __init__(self, path: Path) -> None:
        """``path`` is the file, or any part. Raises ``UnsupportedModelError`` that names what is missing or broken."""
        self.path = path
        self.paths = gguf_parts(path)
        if missing := [part.name for part in self.paths if not part.is_file()]:
            if len(self.paths) == 1:
                raise UnsupportedModelError(not_there(path))
            raise UnsupportedModelError(
                f"{path.name} is one of {len(self.paths)} parts and {', '.join(missing)} is not beside it: fetch all parts"
            )
        parts = [_Part(part) for part in self.paths]
        self._maps = [part.mapped for part in parts]
        self.metadata = GgufMetadata(parts[0].metadata, path)
        self.tensors: dict[str, GgufTensor] = {}
        for part in parts:
            if twice := self.tensors.keys() & part.tensors.keys():
                raise UnsupportedModelError(f"{part.path} has {min(twice)} again, which another part has")
            self.tensors.update(part.tensors)
        self._check_whole()

    def _check_whole(self) -> None:
        num_parts = self.metadata.integer("split.count", 1) or 1
        if num_parts != len(self.paths):
            raise UnsupportedModelError(
                f"{self.path} says that it is one of {num_parts} parts: name them as they were published, "
                f"…-00001-of-{num_parts:05d}.gguf, all in one folder"
            )
        num_tensors = self.metadata.integer("split.tensors.count", len(self.tensors))
        if num_tensors != len(self.tensors):
            raise UnsupportedModelError(
                f"{self.path}: its {len(self.paths)} parts hold {len(self.tensors)} tensors of {num_tensors}: "
                "they are not of one model"
            )

    @property
    def num_bytes(self) -> int:
        """The size of all parts."""
        return sum(len(mapped) for mapped in self._maps)

    def release(self) -> None:
        """What was read of the mapped files no longer counts as this process's memory."""
        for mapped in self._maps:
            mapped.madvise(mmap.MADV_DONTNEED)


class _Part:
    """One file: its header is read, its tensors are found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # an empty file can't be mapped
            raise UnsupportedModelError(f"{path} can't be read as a GGUF file: {error}") from error
        if self.mapped[:4] != b"GGUF":
            raise UnsupportedModelError(f"{path} is no GGUF file: it begins with {self.mapped[:4]!r}")
        self._at = 4
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, GgufTensor] = {}
        try:
            self._read()
        except UnsupportedModelError:
            raise
        except (struct.error, TypeError, ValueError, IndexError, OverflowError, MemoryError, RecursionError) as error:
            raise UnsupportedModelError(f"{path} is a truncated or broken GGUF file: {error}") from error

    def _read(self) -> None:
        version = self._number("I")
        if version not in _VERSIONS:
            raise UnsupportedModelError(
                f"{self.path} is of GGUF version {version} (or of a big-endian machine): only 2 and 3 are read"
            )
        num_tensors, num_values = self._number("Q"), self._number("Q")
        for _ in range(num_values):
            key = self._string()
            if key in self.metadata:
                raise UnsupportedModelError(f"{self.path} is broken: it has {key} twice")
            self.metadata[key] = self._value(self._number("I"))
        infos = [self._tensor_info() for _ in range(num_tensors)]
        alignment = GgufMetadata(self.metadata, self.path).size("general.alignment", 32)
        start = end = -(-self._at // alignment) * alignment
        for name, shape, type_number, offset in sorted(infos, key=lambda info: info[3]):
            if name in self.tensors:
                raise UnsupportedModelError(f"{self.path} is broken: it has {name} twice")
            if offset % alignment or start + offset < end:
                raise UnsupportedModelError(
                    f"{self.path} is broken: {name} begins at byte {offset} of the weights, inside another tensor or not at a "
                    f"multiple of general.alignment ({alignment})"
                )
            tensor = self._tensor(name, shape, type_number, start + offset)
            end = start + offset + tensor.data.nbytes
            self.tensors[name] = tensor

    def _tensor(self, name: str, shape: tuple[int, ...], type_number: int, start: int) -> GgufTensor:
        if type_number not in TYPES:
            raise UnsupportedModelError(f"{self.path}: {name} has a type that is not known, number {type_number}")
        kind, block_len, block_bytes = TYPES[type_number]
        if shape[-1] % block_len:
            raise UnsupportedModelError(f"{self.path}: {name} has rows of {shape[-1]}, not whole blocks of {kind}")
        row_bytes = shape[-1] // block_len * block_bytes
        num_rows = math.prod(shape[:-1])
        missing = start + num_rows * row_bytes - len(self.mapped)
        if missing > 0:
            raise UnsupportedModelError(f"{self.path} is truncated: {name} ends {missing} bytes beyond its end")
        data = np.frombuffer(self.mapped, np.uint8, num_rows * row_bytes, start).reshape(num_rows, row_bytes)
        return GgufTensor(name, kind, shape, data)

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dimensions = self._string(), self._number("I")
        if not 1 <= num_dimensions <= _MAX_NUM_DIMENSIONS:
            raise UnsupportedModelError(f"{self.path} is broken: {name!r} has {num_dimensions} dimensions")
        shape = [self._number("Q") for _ in range(num_dimensions)]
        return name, tuple(reversed(shape)), self._number("I"), self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise ValueError(f"a metadata value has the type {kind}")
        element, num_elements = self._number("I"), self._number("Q")
        if element in _NUMBERS:
            dtype = np.dtype(_NUMBERS[element])
            values = np.frombuffer(self.mapped, dtype, num_elements, self._at)
            self._at += values.nbytes
            return values.copy()
        return [self._value(element) for _ in range(num_elements)]

    def _string(self) -> str:
        length = self._number("Q")
        end = self._at + length
        if end > len(self.mapped):
            raise ValueError(f"a text of {length} bytes")
        text = self.mapped[self._at : end].decode("utf-8", errors="replace")
        self._at = end
        return text

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.mapped, self._at)
        self._at += struct.calcsize("<" + code)
        return value
