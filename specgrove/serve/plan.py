"""What ``LLM.compile`` was told, checked as far as the values alone tell. Frozen; ``preparation`` makes a suite's configuration of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from specgrove.serve.configuration import Configuration, whole_number
from specgrove.serve.errors import ConfigurationError
from specgrove.serve.ssm import SSM
from specgrove.settings import ROUTER

_DEFAULT_MAX_REQUESTS: int = next(setting.default for setting in ROUTER if setting.name == "max-requests")
_DEGREES = {
    "model_specific_data_parallelism_degree": "num_llm_replicas",
    "model_specific_tensor_parallelism_degree": "tensor_parallel",
    "model_specific_pipeline_parallelism_degree": "pipeline_parallel",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """``None`` leaves a value to the services. Wrong ones raise ``ConfigurationError``."""

    model_name: str
    configuration: Configuration
    ssms: tuple[SSM, ...] = ()
    dtype: str | None = None
    cache_path: str | os.PathLike[str] = ""
    max_requests_per_batch: int | None = None
    max_seq_length: int | None = None
    max_tokens_per_batch: int | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("max_requests_per_batch", 1), ("max_seq_length", 2), ("max_tokens_per_batch", 1)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, value, minimum))
        names = [ssm.name for ssm in self.ssms]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(
                f"two SSMs are named {doubled[0]}: give one another name, SSM({doubled[0]!r}, name='...')"
            )

    @property
    def max_num_requests(self) -> int:
        """Requests that are served at once."""
        return self.max_requests_per_batch or self.configuration.max_num_requests or _DEFAULT_MAX_REQUESTS

    @property
    def llm_arguments(self) -> tuple[str, ...]:
        """As the LLM service takes them."""
        flags = {"--max-model-len": self.max_seq_length, "--max-chunk-tokens": self.max_tokens_per_batch}
        return tuple(word for flag, value in flags.items() if value is not None for word in (flag, str(value)))

    @property
    def router_arguments(self) -> tuple[str, ...]:
        """As the router takes them. The suite serves one object alone, so one connection may have it all."""
        number = str(self.max_num_requests)
        return ("--max-requests", number, "--max-requests-per-connection", number)


def with_degrees(configuration: Configuration, degrees: Mapping[str, int | None]) -> Configuration:
    """One model's own degrees of parallelism, by their names in ``LLM.compile``."""
    own: dict[str, Any] = {
        _DEGREES[name]: whole_number(name, value, 1) for name, value in degrees.items() if value is not None
    }
    return replace(configuration, **own)


def ssms_of(ssms: Sequence[SSM | str]) -> tuple[SSM, ...]:
    """A name alone is an SSM without options; a list is wanted."""
    if isinstance(ssms, (str, SSM)):
        raise ConfigurationError(f"ssms must be a list, e.g. [{ssms!r}]")
    return tuple(ssm if isinstance(ssm, SSM) else SSM(ssm) for ssm in ssms)
