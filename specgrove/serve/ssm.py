"""Small speculative models as the Python API names them."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from specgrove.config import DTYPES
from specgrove.machine.folders import typed_path
from specgrove.serve.errors import ConfigurationError, told_as_configuration
from specgrove.serve.generation import GenerationConfig, checked_config
from specgrove.settings.ssm_specs import parse_ssm


class DataType(enum.Enum):
    """What a model is computed in."""

    DT_FLOAT = "float32"
    DT_HALF = "float16"
    DT_BFLOAT16 = "bfloat16"


class SSM:
    """A small speculative model: ``lookup``, which has no weights, ``demo`` and ``demo-hidden`` (the demo LLM's), a model folder, a
    ``.gguf`` file or a hub id.
    """

    def __init__(
        self,
        model_name: str,
        data_type: DataType | str | None = None,
        cache_path: str = "",
        refresh_cache: bool = False,
        output_file: str = "",
        *,
        name: str | None = None,
        mode: str | None = None,
        width: int | None = None,
        expansion: Sequence[int] | None = None,
        quantization: str | None = None,
    ) -> None:
        """``mode``: "beam" drafts ``width`` nodes a level, "expansion" trees of the fixed shape ``expansion``, e.g. (1, 1, 3).

        ``quantization`` is "int8" or "int4". ``name`` is told of the tokens that it drafted; two SSMs can't have the same.
        ``cache_path``, ``refresh_cache`` and ``output_file`` are FlexFlow's, and change nothing: the LLM's are those of all.
        Raises ``ConfigurationError``.
        """
        options = {
            "mode": mode,
            "width": width,
            "expansion": None if expansion is None else _in_words(expansion),
            "quantization": quantization,
            "name": name,
        }
        given = [f"{option}={value}" for option, value in options.items() if value is not None]
        self.spec = ",".join((checked_model_name("SSM", model_name), *given))
        """As ``specgrove serve --ssm`` takes it."""
        with told_as_configuration():
            self.name = parse_ssm(self.spec).name
        self.dtype = None if data_type is None else dtype_of(data_type)

    def compile(
        self,
        generation_config: GenerationConfig | None = None,
        max_requests_per_batch: int | None = None,
        max_seq_length: int | None = None,
        max_tokens_per_batch: int | None = None,
    ) -> None:
        """FlexFlow's step before ``LLM.compile``. Nothing is left to do in it: an SSM drafts for whatever its LLM serves."""
        checked_config(generation_config)

    def __repr__(self) -> str:
        return f"SSM({self.spec!r})"


def _in_words(expansion: object) -> str:
    """As ``--ssm`` takes it, or ``ConfigurationError``."""
    if isinstance(expansion, str) or not isinstance(expansion, Iterable):
        raise ConfigurationError(f"SSM: expansion must be numbers of branches, e.g. (1, 1, 3), got {expansion!r}")
    return "-".join(map(str, expansion))


def checked_path(name: str, path: object) -> Path | None:
    """The path, ``None`` for an empty one, or ``ConfigurationError``."""
    if not isinstance(path, (str, os.PathLike, type(None))):
        raise ConfigurationError(f"{name} must be a path, got {path!r}")
    with told_as_configuration():
        return typed_path(path) if path else None


def checked_model_name(kind: str, model_name: object) -> str:
    """A text, or ``ConfigurationError``."""
    text = str(model_name) if hasattr(model_name, "__fspath__") else model_name
    if not isinstance(text, str) or not text:
        raise ConfigurationError(f"{kind}: give a model folder, a .gguf file or a hub id, got {model_name!r}")
    return text


def dtype_of(data_type: DataType | str) -> str:
    """Its name, or ``ConfigurationError``."""
    name = data_type.value if isinstance(data_type, DataType) else data_type
    if name not in DTYPES:
        raise ConfigurationError(f"data_type must be a DataType or one of {', '.join(DTYPES)}, got {data_type!r}")
    return name
