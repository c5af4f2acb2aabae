"""Opens a model folder's checkpoint, and says whether it is whole. Called by whatever reads weights, and by commands that check folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.model_files import gguf_of
from specgrove.models.weights.checkpoint import Checkpoint
from specgrove.models.weights.dry_read import check_checkpoint
from specgrove.models.weights.formats.gguf_checkpoint import GgufCheckpoint
from specgrove.models.weights.safetensors_checkpoint import SafetensorsCheckpoint


def open_checkpoint(folder: Path, dtype: torch.dtype = torch.float32, *, keeps_blocks: bool = True) -> Checkpoint:
    """A model folder's weights, to be used in ``with``. The settings are for GGUF files, see ``GgufCheckpoint``.

    Raises ``UnsupportedModelError``, ``JsonFileError``.
    """
    gguf_path = gguf_of(folder)
    if gguf_path is not None:
        spec, checkpoint = read_spec(folder), GgufCheckpoint(gguf_path, dtype, keeps_blocks=keeps_blocks)
        try:
            checkpoint.check_agrees(spec)
        except UnsupportedModelError as error:
            raise UnsupportedModelError(f"{folder}: {error}") from error
        return checkpoint
    family, _ = family_of(folder)
    return SafetensorsCheckpoint(folder, family.NAMES, has_tied_head=read_spec(folder).has_tied_head)


def check_weights(folder: Path, checkpoint: Checkpoint) -> str | None:
    """Whether the open checkpoint is whole, and of this model, by its headers. Returns what to say of tensors that are left out.

    Raises ``UnsupportedModelError``.
    """
    family, _ = family_of(folder)
    spec = read_spec(folder)
    try:
        with naming(folder):
            left_out = check_checkpoint(family, spec, checkpoint)
            if spec.num_heads % spec.num_kv_heads:
                raise UnsupportedModelError(
                    f"{spec.num_heads} query heads are no multiple of {spec.num_kv_heads} key and value heads"
                )
            return left_out
    finally:
        checkpoint.release()


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """An ``UnsupportedModelError`` from within says which folder it is about."""
    try:
        yield
    except UnsupportedModelError as error:
        text = str(error)
        raise UnsupportedModelError(text if text.startswith(str(folder)) else f"{folder}: {text}") from error
