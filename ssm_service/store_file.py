"""A file that keeps what an SSM has learnt while it served. Read when the service starts, replaced as a whole when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

logger = logging.getLogger(__name__)

_KIND = "specgrove_store"


class StoreFile:
    """In the safetensors format, with what it holds in its metadata."""

    def __init__(self, path: Path, kind: str) -> None:
        """Raises ``ValueError`` where it could not be written."""
        self.path = path
        self._kind = kind
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent} for the {kind}")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            problem = f"{path}: nothing can be written to {path.parent}, where the {kind} is to be kept"
            if not path.exists():
                raise ValueError(problem)
            logger.warning("%s: what is learnt from now on will be lost", problem)

    def load(self, dtypes: Mapping[str, torch.dtype]) -> dict[str, torch.Tensor] | None:
        """The tensors of these names; ``None`` where there is no file yet. Raises ``ValueError`` for another kind of file."""
        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                kind = (file.metadata() or {}).get(_KIND)
                if kind != self._kind:
                    raise ValueError(f"{self.path} is {kind or 'a file of another program'}, not a {self._kind}")
                found: dict[str, torch.Tensor] = {name: file.get_tensor(name) for name in dtypes}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} can't be read as a {self._kind}: {error}") from error
        if any(found[name].dtype != dtype for name, dtype in dtypes.items()):
            raise ValueError(f"{self.path} can't be read as a {self._kind}: its numbers have other types")
        return found

    def save(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Whole or not at all. Raises ``OSError``."""
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            save_file(dict(tensors), partial, {_KIND: self._kind})
            partial.replace(self.path)
        except (SafetensorError, OSError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise OSError(f"{self.path}: the {self._kind} can't be written: {error}") from error
