"""What ``LLM.compile`` was told, checked as far as the values alone tell. Frozen; ``preparation`` makes a suite's configuration of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specgrove.serve.configuration import whole_number
from specgrove.serve.errors import ConfigurationError
from specgrove.serve.ssm import SSM
from specgrove.settings import Place, SuiteSettings, setting_at

_DEGREES = {
    "model_specific_data_parallelism_degree": ("", "llm-replicas"),
    "model_specific_tensor_parallelism_degree": ("llm", "tensor-parallel"),
    "model_specific_pipeline_parallelism_degree": ("llm", "pipeline-parallel"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """``None`` leaves a value to the services. Wrong ones raise ``ConfigurationError``."""

    model_name: str
    configuration: SuiteSettings
    ssms: tuple[SSM, ...] = ()
    dtype: str | None = None
    cache_path: Path | None = None
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
    def settings(self) -> SuiteSettings:
        """What ``init`` said, and over it what the LLM, its SSMs and ``compile`` were told."""
        number = self.max_requests_per_batch or self.configuration["router", "max-requests"]
        told: dict[Place, Any] = {
            ("llm", "model"): self.model_name,
            ("llm", "dtype"): self.dtype,
            ("ssm", "dtype"): _dtype_of(self.ssms) or self.dtype,
            ("ssm", "ssm"): [ssm.spec for ssm in self.ssms] or ["none"],
            ("llm", "max-model-len"): self.max_seq_length,
            ("llm", "max-chunk-tokens"): self.max_tokens_per_batch,
            ("router", "max-requests"): number,
            # The suite serves one object alone, so one connection may have it all.
            ("router", "max-requests-per-connection"): number,
        }
        if self.cache_path is not None:
            told |= {("llm", "cache-dir"): self.cache_path, ("ssm", "cache-dir"): self.cache_path}
        return SuiteSettings({place: value for place, value in told.items() if value is not None}).over(
            self.configuration
        )


def _dtype_of(ssms: Sequence[SSM]) -> str | None:
    """That of all SSMs, which run in one service."""
    dtypes = sorted({ssm.dtype for ssm in ssms if ssm.dtype is not None})
    if len(dtypes) > 1:
        raise ConfigurationError(f"SSMs are computed in one data_type, got {' and '.join(dtypes)}")
    return dtypes[0] if dtypes else None


def with_degrees(configuration: SuiteSettings, degrees: Mapping[str, int | None]) -> SuiteSettings:
    """One model's own degrees of parallelism, by their names in ``LLM.compile``."""
    own: dict[Place, Any] = {}
    for name, value in degrees.items():
        if value is not None:
            number = whole_number(name, value, 1)
            own[_DEGREES[name]] = setting_at(_DEGREES[name]).value_of(str(number))
    return SuiteSettings(own).over(configuration)


def ssms_of(ssms: Sequence[SSM | str] | None) -> tuple[SSM, ...]:
    """A name alone is an SSM without options; a list is wanted, and ``None`` is none."""
    if ssms is None:
        return ()
    if isinstance(ssms, (str, SSM)):
        raise ConfigurationError(f"ssms must be a list, e.g. [{ssms!r}]")
    if not isinstance(ssms, Iterable):
        raise ConfigurationError(f"ssms must be a list of SSMs, got {ssms!r}")
    return tuple(ssm if isinstance(ssm, SSM) else SSM(ssm) for ssm in ssms)
