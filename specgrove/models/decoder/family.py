"""Which family a model folder is of, and what its ``config.json`` makes of the decoder: told without torch, by whoever asks.

``specgrove.program.loading`` reads weights by it; checks before a start, the memory plan and ``specgrove models`` read specs alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.architectures import BY_FAMILY, architecture_of_type, family_name_of
from specgrove.models.decoder.families import falcon, gemma2, gemma3, gpt_bigcode, granite, llama, mpt, opt
from specgrove.models.decoder.families.foreign_keys import refuse_foreign_keys
from specgrove.models.decoder.parameters import ModelWeights
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.errors import UnsupportedModelError
from specgrove.models.weights.tensor_names import FamilyNames

if TYPE_CHECKING:
    from specgrove.models.weights.checkpoint import ShardReader  # brings torch


class Family(Protocol):
    """What a module of ``specgrove.models.decoder.families`` offers."""

    @property
    def NAMES(self) -> FamilyNames:  # noqa: N802
        """How ``weights_of`` names tensors."""
        ...

    def spec_of(self, config: JsonObject, /) -> DecoderSpec:
        """From ``config.json``. Raises ``UnsupportedModelError``, ``JsonFileError``."""
        ...

    def weights_of(self, reader: ShardReader, spec: DecoderSpec, /) -> ModelWeights:
        """The reader's tensors under the decoder's names."""
        ...


_FAMILIES: dict[str, Family] = {
    "llama": llama, "opt": opt, "falcon": falcon, "gpt_bigcode": gpt_bigcode, "mpt": mpt, "gemma2": gemma2, "gemma3": gemma3,
    "granite": granite,
}  # fmt: skip


def family_of(folder: Path) -> tuple[Family, JsonObject]:
    """As ``family_name_of``, with the family itself."""
    name, config = family_name_of(folder)
    return _FAMILIES[name], config


def read_spec(folder: Path) -> DecoderSpec:
    """The spec of a model folder's ``config.json``. Raises ``UnsupportedModelError``, ``JsonFileError``."""
    name, config = family_name_of(folder)
    try:
        refuse_foreign_keys(config, name)
        spec = _FAMILIES[name].spec_of(config)
        _check_model_type(config, spec)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{folder}: {error}") from error
    return spec


def _check_model_type(config: JsonObject, spec: DecoderSpec) -> None:
    """Other engines, transformers among them, go by ``model_type``. It may name another architecture where that changes nothing."""
    other = architecture_of_type(config)
    if other is None or other in config.texts("architectures"):
        return
    told = f"model_type is {config.text('model_type')!r}, which is {other}, and architectures names {spec.architecture}"
    family = _FAMILIES[next(name for name, known in BY_FAMILY.items() if other in known)]
    try:
        as_other = family.spec_of(JsonObject({**config, "architectures": [other]}, config.place))
    except ValueError as error:
        raise UnsupportedModelError(f"{told}: leave out the one that is wrong") from error
    if _computed(as_other) != _computed(spec):
        raise UnsupportedModelError(f"{told}, which computes something else: leave out the one that is wrong")


def _computed(spec: DecoderSpec) -> DecoderSpec:
    """Without the name, and without windows that no context is longer than."""
    layers = (
        replace(layer, window=None) if (layer.window or 0) >= spec.max_position_embeddings else layer
        for layer in spec.layers
    )
    return replace(spec, architecture="", layers=tuple(layers))
