"""Reads checkpoints: safetensors only, one tensor at a time, so that no file is in memory as a whole. Used by the families."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open

from specgrove.models.spec import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class LinearWeights:
    """``weight`` is ``[out_features, in_features]``, ``bias`` ``[out_features]``."""

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Query, key and value stand in one linear, so do gate and up."""

    attention_norm: torch.Tensor
    qkv: LinearWeights
    attention_out: LinearWeights
    mlp_norm: torch.Tensor
    gate_up: LinearWeights
    down: LinearWeights


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """A whole model; ``layer(i)`` reads layer i when it is called."""

    embedding: torch.Tensor  # [vocab_size, hidden_size]
    layer: Callable[[int], LayerWeights]
    final_norm: torch.Tensor  # [hidden_size]
    head: torch.Tensor  # [vocab_size, hidden_size]


class Checkpoint:
    """The tensors of a folder's ``*.safetensors`` files, with or without an index. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()
        self._files = {}
        self._file_of: dict[str, str] = {}
        try:
            for name in self._file_names():
                file = self._stack.enter_context(safe_open(folder / name, framework="pt"))
                self._files[name] = file
                self._file_of.update(dict.fromkeys(file.keys(), name))
        except (SafetensorError, OSError) as error:
            self._stack.close()
            raise UnsupportedModelError(f"{folder} can't be read: {error}") from error

    def _file_names(self) -> list[str]:
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            return sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return sorted(path.name for path in self.folder.glob("*.safetensors"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor as stored. Raises ``UnsupportedModelError`` that names the folder and what is missing."""
        if name not in self._file_of:
            raise UnsupportedModelError(
                f"{self.folder} has no tensor {name!r}: is it a checkpoint of this architecture?"
            )
        tensor = self._files[self._file_of[name]].get_tensor(name)
        assert isinstance(tensor, torch.Tensor)
        return tensor

    def linear(self, names: Sequence[str], has_bias: bool) -> LinearWeights:
        """Linears that read the same input, stacked to one."""
        weight = torch.cat([self.tensor(f"{name}.weight") for name in names])
        bias = torch.cat([self.tensor(f"{name}.bias") for name in names]) if has_bias else None
        return LinearWeights(weight, bias)
