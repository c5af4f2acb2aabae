"""From what an LLM was told to the suite that serves it. Everything that can be wrong is found here, before a process starts.

Imported by ``LLM.compile`` when it is called. Fetches, converts and quantises models where that has not been done yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from specgrove.config import DEFAULT_DTYPE
from specgrove.folders import default_cache_dir, provide_home
from specgrove.models.hub import resolve_model
from specgrove.models.quantized_cache import ensure_quantized
from specgrove.serve.configuration import Configuration
from specgrove.serve.errors import ConfigurationError, told_as_configuration
from specgrove.serve.plan import Plan
from specgrove.serve.ssm import SSM
from specgrove.ssm_choice import chosen_ssms
from specgrove.suite import SuiteConfig


def suite_config(plan: Plan, say: Callable[[str], None]) -> SuiteConfig:
    """Raises ``ConfigurationError``. ``say`` is told what takes long."""
    configuration = plan.configuration
    dtype = plan.dtype or DEFAULT_DTYPE
    ssm_dtype = _dtype_of(plan.ssms) or dtype
    with told_as_configuration():
        provide_home()  # before libraries look for it
        cache_dir = Path(plan.cache_path).expanduser() if plan.cache_path else default_cache_dir()
        folder = resolve_model(plan.model_name, cache_dir=cache_dir, progress=say)
        folder = ensure_quantized(folder, configuration.quantization, cache_dir, say)
        specs = [ssm.spec for ssm in plan.ssms]
        ssms = chosen_ssms(specs or ["none"], folder, cache_dir, say, called="SSM")
    both = ("--cache-dir", str(cache_dir), *_device_of(configuration))
    further = configuration.arguments
    return SuiteConfig(
        llm_folder=folder,
        ssms=ssms,
        dtype=dtype,
        num_llm_replicas=configuration.num_llm_replicas,
        num_threads=configuration.num_threads,
        llm_arguments=(*both, *_layout_of(configuration), *further.get("llm_service", ()), *plan.llm_arguments),
        ssm_arguments=(*both, "--dtype", ssm_dtype, *further.get("ssm_service", ())),
        router_arguments=(*further.get("router", ()), *plan.router_arguments),
    )


def _dtype_of(ssms: Sequence[SSM]) -> str | None:
    """That of all SSMs, which run in one service."""
    dtypes = sorted({ssm.dtype for ssm in ssms if ssm.dtype is not None})
    if len(dtypes) > 1:
        raise ConfigurationError(f"SSMs are computed in one data_type, got {' and '.join(dtypes)}")
    return dtypes[0] if dtypes else None


def _device_of(configuration: Configuration) -> tuple[str, ...]:
    return () if configuration.device is None else ("--device", configuration.device)


def _layout_of(configuration: Configuration) -> tuple[str, ...]:
    """How the LLM lies on what it runs on."""
    flags = ["--tensor-parallel", str(configuration.tensor_parallel)]
    flags += ["--pipeline-parallel", str(configuration.pipeline_parallel)]
    if configuration.memory_per_rank_bytes is not None:
        flags += ["--memory-per-gpu", str(configuration.memory_per_rank_bytes)]
    if configuration.has_offload:
        flags.append("--offload")
    return tuple(flags)
