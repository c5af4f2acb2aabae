"""From a model folder to a decoder: finds the family, reads its spec and this rank's weights. Called by the services."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from specgrove.models.checkpoint import Checkpoint, TensorSource
from specgrove.models.decoder import Decoder, Progress
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.families import falcon, gemma3, gpt_bigcode, llama, mpt, opt
from specgrove.models.formats.gguf_checkpoint import GgufCheckpoint
from specgrove.models.model_files import gguf_of
from specgrove.models.safetensors_checkpoint import SafetensorsCheckpoint
from specgrove.models.sharding import Shard
from specgrove.models.spec import DecoderSpec
from specgrove.models.tensor_group import TensorGroup
from specgrove.models.weight_store import WeightStore
from specgrove.models.weights import ModelWeights


class Family(Protocol):
    """What a module of ``specgrove.models.families`` offers."""

    @property
    def ARCHITECTURES(self) -> tuple[str, ...]:  # noqa: N802
        """The names in ``config.json``."""
        ...

    def spec_of(self, config: Mapping[str, Any], /) -> DecoderSpec:
        """From ``config.json``. Raises ``UnsupportedModelError``."""
        ...

    def weights_of(self, source: TensorSource, spec: DecoderSpec, shard: Shard, /) -> ModelWeights:
        """A checkpoint's tensors under the decoder's names, one rank's part."""
        ...


_FAMILIES: tuple[Family, ...] = (llama, opt, falcon, gpt_bigcode, mpt, gemma3)
ARCHITECTURES = tuple(name for family in _FAMILIES for name in family.ARCHITECTURES)


def family_of(folder: Path) -> tuple[Family, dict[str, Any]]:
    """The family of a model folder and its ``config.json``. Raises ``UnsupportedModelError``."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    architectures = config.get("architectures") or []
    for family in _FAMILIES:
        if set(architectures) & set(family.ARCHITECTURES):
            return family, config
    raise UnsupportedModelError(
        f"{folder}: architecture {architectures} is not supported, only {', '.join(ARCHITECTURES)}"
    )


def read_spec(folder: Path) -> DecoderSpec:
    """The spec of a model folder's ``config.json``. Raises ``UnsupportedModelError``."""
    family, config = family_of(folder)
    try:
        return family.spec_of(config)
    except (KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise UnsupportedModelError(f"{folder}/config.json lacks a value or has a wrong one: {error!r}") from error
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{folder}: {error}") from error


def open_checkpoint(folder: Path, dtype: torch.dtype = torch.float32, *, keeps_blocks: bool = True) -> Checkpoint:
    """A model folder's weights, to be used in ``with``. The settings are for GGUF files, see ``GgufCheckpoint``.

    Raises ``UnsupportedModelError``.
    """
    gguf_path = gguf_of(folder)
    if gguf_path is None:
        return SafetensorsCheckpoint(folder)
    return GgufCheckpoint(gguf_path, dtype, keeps_blocks=keeps_blocks)


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
        weights = family.weights_of(checkpoint, spec, shard or Shard.whole(spec))
        return Decoder(spec, weights, dtype, shard, group, store, progress)
