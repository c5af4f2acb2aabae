"""From a model folder to a decoder: reads this rank's weights as the family says. Called by the services."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import torch

from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.weights.checkpoint import read_weights
from specgrove.models.weights.opening import check_weights, naming, open_checkpoint
from specgrove.program.build import Progress
from specgrove.program.decoder import Decoder
from specgrove.program.stores import WeightStore
from specgrove.program.tensor_group import TensorGroup

logger = logging.getLogger(__name__)


def load_decoder(
    folder: Path,
    dtype: torch.dtype,
    progress: Progress = lambda done, total: None,
    shard: Shard | None = None,
    group: TensorGroup | None = None,
    store: WeightStore | None = None,
    keep_hidden: Collection[int] = (),
) -> Decoder:
    """Reads a checked model folder layer by layer, only what ``shard`` holds; the rest as for ``Decoder``.

    Raises ``UnsupportedModelError`` that names the tensor, also for one that holds NaN or infinity.
    """
    family, _ = family_of(folder)
    spec = read_spec(folder)
    with naming(folder), open_checkpoint(folder, dtype) as checkpoint:
        if (left_out := check_weights(folder, checkpoint)) is not None:
            logger.info("%s: %s", folder.name, left_out)
        weights = read_weights(family, checkpoint, spec, shard or Shard.whole(spec), dtype)
        return Decoder(spec, weights, dtype, shard, group, store, progress, keep_hidden)
