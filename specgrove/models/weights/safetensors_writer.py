"""Writes a checkpoint tensor by tensor into several safetensors files with an index, so that only one file's worth is in memory.

Used by what makes model folders: quantisation and conversion.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

_MAX_FILE_BYTES = 1 << 29


class SafetensorsWriter:
    """``add`` every tensor, then ``finish``."""

    def __init__(self, folder: Path, max_file_bytes: int = _MAX_FILE_BYTES) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._names: list[list[str]] = []
        self._num_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Copies nothing: the tensor must not change before the file is written."""
        if self._pending and self._pending_bytes + tensor.nbytes > self._max_file_bytes:
            self._write()
        self._pending[name] = tensor.contiguous()
        self._pending_bytes += tensor.nbytes

    def finish(self) -> None:
        """Writes what is left, and the index if there is more than one file."""
        self._write()
        num_files = len(self._names)
        if num_files == 1:
            self._path(0).rename(self._folder / "model.safetensors")
            return
        weight_map = {}
        for number, names in enumerate(self._names):
            path = self._folder / f"model-{number + 1:05d}-of-{num_files:05d}.safetensors"
            self._path(number).rename(path)
            weight_map.update(dict.fromkeys(names, path.name))
        index = {"metadata": {"total_size": self._num_bytes}, "weight_map": weight_map}
        (self._folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")

    def _write(self) -> None:
        path = self._path(len(self._names))
        save_file(self._pending, path, metadata={"format": "pt"})
        path.chmod(0o644)  # safetensors writes it for its owner only
        self._names.append(list(self._pending))
        self._num_bytes += self._pending_bytes
        self._pending, self._pending_bytes = {}, 0

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number}"
