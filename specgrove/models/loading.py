"""From a model folder to a decoder: opens its checkpoint, and reads this rank's weights as the family says. Called by the services."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from specgrove.models.checkpoint import Checkpoint, read_weights
from specgrove.models.decoder import Decoder, Progress
from specgrove.models.dry_read import check_checkpoint
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.family import family_of, read_spec
from specgrove.models.formats.gguf_checkpoint import GgufCheckpoint
from specgrove.models.model_files import gguf_of
from specgrove.models.safetensors_checkpoint import SafetensorsCheckpoint
from specgrove.models.sharding import Shard
from specgrove.models.tensor_group import TensorGroup
from specgrove.models.weight_store import WeightStore

logger = logging.getLogger(__name__)


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
        left_out = check_checkpoint(family, spec, checkpoint)
        if spec.num_heads % spec.num_kv_heads:
            raise UnsupportedModelError(
                f"{spec.num_heads} query heads are no multiple of {spec.num_kv_heads} key and value heads"
            )
        return left_out
    except UnsupportedModelError as error:
        text = str(error)
        raise UnsupportedModelError(text if text.startswith(str(folder)) else f"{folder}: {text}") from error
    finally:
        checkpoint.release()


def load_decoder(
    folder: Path,
    dtype: torch.dtype,
    progress: Progress = lambda done, total: None,
    shard: Shard | None = None,
    group: TensorGroup | None = None,
    store: WeightStore | None = None,
) -> Decoder:
    """Reads a checked model folder layer by layer, only what ``shard`` holds; ``progress`` is told layers done and in all."""
    family, _ = family_of(folder)
    spec = read_spec(folder)
    with open_checkpoint(folder, dtype) as checkpoint:
        if (left_out := check_weights(folder, checkpoint)) is not None:
            logger.info("%s: %s", folder.name, left_out)
        weights = read_weights(family, checkpoint, spec, shard or Shard.whole(spec))
        return Decoder(spec, weights, dtype, shard, group, store, progress)
