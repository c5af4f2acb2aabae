"""A model folder's safetensors files as a ``TensorSource``, with weights in whichever format ``config.json`` says they have.

Opened by ``specgrove.models.loading``. Files are mapped when they are read from, and let go before the next weight is read, when the
last one has been packed: what was read of them would count as this process's memory. Pickle is never read.
"""

from __future__ import annotations

import ctypes
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open

from specgrove.models.checkpoint import ALL
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.formats import format_of
from specgrove.models.weights import Weight


def _trim_heap() -> None:
    """Gives freed memory back to the system: glibc keeps some tens of MB of what large tensors took."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


class SafetensorsCheckpoint:
    """The tensors of a folder's ``*.safetensors`` files, with or without an index. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        self._file_of: dict[str, str] = {}
        for name in self._file_names():
            self._file_of.update(dict.fromkeys(self._file(name).keys(), name))
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        try:
            self._format = format_of(config.get("quantization_config"), self)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{folder}: {error}") from error

    def _file_names(self) -> list[str]:
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return sorted(path.name for path in self.folder.glob("*.safetensors"))

    def _file(self, name: str) -> Any:
        if name not in self._files:
            try:
                self._files[name] = self._open.enter_context(safe_open(self.folder / name, framework="pt"))
            except (SafetensorError, OSError) as error:
                self.release()
                raise UnsupportedModelError(f"{self.folder} can't be read: {error}") from error
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
        return list(self._file_of)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """See ``TensorSource``."""
        if self._format is not None and self._format.holds(name):
            return self._format.shape_of(name)
        return tuple(self._slice_of(name).get_shape())

    def tensor(self, name: str, rows: slice = ALL) -> torch.Tensor:
        """See ``TensorSource``. A copy: it is kept as it is, and would keep the file mapped."""
        if not self.stores(name) and name in self:
            raise UnsupportedModelError(f"{self.folder}: {name} is quantised, which only linears may be")
        return self.read(name, rows).clone()

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
        return name in self._file_of

    def read(self, name: str, *slices: slice) -> torch.Tensor:
        """See ``StoredTensors``."""
        stored = self._slice_of(name)
        file = self._file(self._file_of[name])
        tensor = file.get_tensor(name) if all(s == ALL for s in slices) else stored[slices]
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def _slice_of(self, name: str) -> Any:
        if name not in self._file_of:
            raise UnsupportedModelError(
                f"{self.folder} has no tensor {name!r}: is it a checkpoint of this architecture?"
            )
        return self._file(self._file_of[name]).get_slice(name)
