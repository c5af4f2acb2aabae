"""Which family a model folder is of, and what its ``config.json`` makes of the decoder: told without torch, by whoever asks.

``specgrove.program.loading`` reads weights by it; checks before a start, the memory plan and ``specgrove models`` read specs alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from specgrove.files.json_files import JsonObject
from specgrove.models.decoder.architectures import family_name_of
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
        return _FAMILIES[name].spec_of(config)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{folder}: {error}") from error
