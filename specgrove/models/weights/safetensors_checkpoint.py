"""A model folder's safetensors files as a ``TensorSource``, with weights in whichever format ``config.json`` says they have.

Opened by ``specgrove.models.weights.opening``. Files are mapped when they are read from, and let go before the next weight is read, when
the last one has been packed: what was read of them would count as this process's memory. Pickle is never read.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open

from specgrove.files.json_files import is_lfs_pointer, lfs_remedy
from specgrove.models.decoder.parameters import Weight
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.model_files import quantization_config_of
from specgrove.models.weights.checkpoint import ALL
from specgrove.models.weights.formats import format_of
from specgrove.models.weights.formats.stored import WeightFormat
from specgrove.models.weights.safetensors_files import weight_files_of
from specgrove.models.weights.tensor_names import FamilyNames, canonical_names

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


def _trim_heap() -> None:
    """Gives freed memory back to the system: glibc keeps some tens of MB of what large tensors took."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class SafetensorsCheckpoint:
    """The tensors of a folder's safetensors files, under their family's names. A context manager."""

    def __init__(self, folder: Path, family: FamilyNames, *, has_tied_head: bool) -> None:
        """Raises ``UnsupportedModelError``, ``JsonFileError``."""
        self.folder = folder
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._format: WeightFormat | None = None  # which reads through this checkpoint when it is made
        files = weight_files_of(folder)
        try:
            names_of = {path.name: tuple(self._file(path.name).keys()) for path in files.paths}
            self._file_of = files.located(names_of)
            self._stored_name = canonical_names(self._file_of, family, has_tied_head=has_tied_head)
            self._format = format_of(quantization_config_of(folder), self)
        except UnsupportedModelError as error:
            self.release()
            raise UnsupportedModelError(f"{folder}: {error}") from error
        except ValueError:
            self.release()
            raise

    def _file(self, name: str) -> Any:
        if name not in self._files:
            path = self.folder / name
            if is_lfs_pointer(path):
                raise UnsupportedModelError(lfs_remedy(path))
            try:
                self._files[name] = self._open.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                self.release()
                raise UnsupportedModelError(f"{path} can't be read: {error}") from error
        return self._files[name]

    def release(self) -> None:
        """See ``Checkpoint``."""
        self._files.clear()
        self._open.close()
        _trim_heap()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __contains__(self, name: str) -> bool:
        return self.stores(name) or (self._format is not None and self._format.holds(name))

    def names(self) -> list[str]:
        """See ``Checkpoint``; the parts of quantised weights have their own names here."""
        return list(self._stored_name)

    def parts_of(self, name: str) -> tuple[str, ...]:
        """See ``Checkpoint``."""
        if self._format is not None and self._format.holds(name):
            return self._format.parts_of(name)
        kind = str(self._slice_of(name).get_dtype())
        if kind not in _FLOATS:
            raise UnsupportedModelError(
                f"{self.folder}: {name} holds {kind}, and nothing says what numbers these stand for: is it quantised in a way that "
                "config.json doesn't tell?"
            )
        if kind.startswith("F8") and self._format is not None:
            raise UnsupportedModelError(
                f"{self.folder}: {name} holds {kind} and no scale is beside it, though the weights are quantised: part of the checkpoint "
                "is missing, fetch it again"
            )
        return (name,)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        if not self.stores(name) and self._format is not None and self._format.holds(name):
            return self._format.shape_of(name)
        return tuple(self._slice_of(name).get_shape())

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """See ``TensorSource``. A copy: it is kept as it is, and would keep the file mapped."""
        if self._format is None or not self._format.holds(name):
            return self.read(name, rows).clone()
        if not self.stores(name):
            raise UnsupportedModelError(f"{self.folder}: {name} is quantised, which only linears may be")
        weight = self.weight(name, rows, ALL)  # codes under the plain name, with scales beside them
        return weight if isinstance(weight, torch.Tensor) else weight.dequantized()

    def weight(self, name: str, rows: slice, columns: slice) -> Weight:
        """See ``TensorSource``."""
        self.release()
        if self._format is not None and self._format.holds(name):
            try:
                return self._format.weight(name, rows, columns)
            except (UnsupportedModelError, ValueError) as error:
                raise UnsupportedModelError(f"{self.folder}: {error}") from error
        return self.read(name, rows, columns)

    def stores(self, name: str) -> bool:
        """See ``StoredTensors``."""
        return name in self._stored_name

    def read(self, name: str, *slices: slice) -> torch.Tensor:
        """See ``StoredTensors``."""
        stored = self._slice_of(name)
        tensor = self._whole(name) if all(s == ALL for s in slices) else stored[slices]
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def _whole(self, name: str) -> Any:
        stored_name = self._stored_name[name]
        return self._file(self._file_of[stored_name]).get_tensor(stored_name)

    def _slice_of(self, name: str) -> Any:
        if name not in self._stored_name:
            raise UnsupportedModelError(
                f"{self.folder} has no tensor {name!r}: is it a whole checkpoint of this architecture?"
            )
        stored_name = self._stored_name[name]
        return self._file(self._file_of[stored_name]).get_slice(stored_name)
