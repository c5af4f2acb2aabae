"""Whether a machine has what an SSM service's settings ask for: as ``specgrove.models.planning.fitting``, for the pool of small models.

Asked by commands before a service is started, and by the service before it loads anything. Imports no torch, reads no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from specgrove.config import MIN_NUM_SLOTS
from specgrove.machine.gpus import check_gpu_wanted, may_have_gpu
from specgrove.models.decoder.device_limits import why_not
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.model_files import quantization_kind
from specgrove.models.folders.quantized_cache import needs_quantizing
from specgrove.models.hidden_state.recognition import as_decoder, hidden_ssm_spec_of, reads_hidden_states
from specgrove.models.planning.memory_plan import (
    DoesNotFitError,
    MemoryPlan,
    MemoryRequest,
    available_memory_bytes,
    gibibytes,
    plan_memory,
)
from specgrove.settings.rules import ValueOf
from specgrove.settings.ssm_specs import SsmSpec

# Of a pass: a chunk of a prompt, and levels of many sessions' trees.
SSM_MAX_NUM_ROWS, SSM_MAX_NUM_ASKED = 512, 256


@dataclass(frozen=True, slots=True)
class SsmDemand:
    """What one service asks for, the same for each of its models."""

    dtype: str
    device: str
    """``auto``, ``cpu`` or ``cuda``."""
    gpu_kernels: str
    """``auto``, ``off`` or ``require``."""
    num_slots: int

    @classmethod
    def of(cls, value_of: ValueOf) -> SsmDemand:
        """From the values of the SSM service's settings, by their names."""
        return cls(value_of("dtype"), value_of("device"), value_of("gpu-kernels"), value_of("kv-slots"))


@dataclass(frozen=True, slots=True)
class FoundSsm:
    """One with weights, and where they are."""

    name: str
    folder: Path
    quantization: str
    """``none``, ``int8`` or ``int4``."""


def found_ssm(spec: SsmSpec, cache_dir: Path, progress: Callable[[str], None]) -> FoundSsm:
    """Fetched or converted if need be. ``spec`` names a model. Raises ``ModelNotFoundError``."""
    assert spec.model is not None
    folder = resolve_model(spec.model, cache_dir=cache_dir, progress=progress, needs_tokenizer=False)
    return FoundSsm(spec.name, folder, spec.quantization)


def check_ssms_before_start(demand: SsmDemand, ssms: Sequence[FoundSsm], llm_folder: Path | None) -> None:
    """All that shows of models that are there, and of the LLM whose hidden states some read. Raises ``ValueError``.

    How much memory a GPU has only the service finds out.
    """
    check_gpu_wanted(demand.device, demand.gpu_kernels, has_gpu=may_have_gpu())
    plans = {ssm.name: _plan_of(demand, ssm, llm_folder) for ssm in ssms}
    if demand.device == "cpu" or not may_have_gpu():
        _check_fit(plans, available_memory_bytes())


def _plan_of(demand: SsmDemand, ssm: FoundSsm, llm_folder: Path | None) -> MemoryPlan:
    if reads_hidden_states(ssm.folder):
        own = hidden_ssm_spec_of(ssm.folder, llm_folder)
        assert llm_folder is not None, "it would have been asked for"
        spec = as_decoder(own, read_spec(llm_folder))
    else:
        spec = read_spec(ssm.folder)
        needs_quantizing(ssm.folder, ssm.quantization)  # or can't be
    if demand.gpu_kernels == "require" and (reason := why_not(spec, demand.dtype)) is not None:
        raise ValueError(f"--gpu-kernels require: SSM {ssm.name}: {reason}")
    request = MemoryRequest(
        dtype=demand.dtype,
        quantization=quantization_kind(ssm.folder) or (None if ssm.quantization == "none" else ssm.quantization),
        layout=ParallelLayout(),
        num_slots=demand.num_slots,
        max_num_rows=SSM_MAX_NUM_ROWS,
        max_num_asked=SSM_MAX_NUM_ASKED,
        num_hidden_layers=0,  # they read hidden states of the LLM, or none
    )
    (plan,) = plan_memory(spec, request)
    return plan


def _check_fit(plans: dict[str, MemoryPlan], available_bytes: int) -> None:
    needed = sum(plan.total_bytes for plan in plans.values())
    if needed <= available_bytes:
        return
    others = sum(plan.weight_bytes + plan.activation_bytes for plan in plans.values())
    fewer = (available_bytes - others) // sum(plan.slot_bytes for plan in plans.values())
    advice = f"give --kv-slots {fewer} at most" if fewer >= MIN_NUM_SLOTS else "name fewer or smaller SSMs"
    told = "; ".join(f"{name}: {str(plan).partition(': ')[2]}" for name, plan in plans.items())
    raise DoesNotFitError(
        f"{gibibytes(needed)} are needed and {gibibytes(available_bytes)} available: {told}; {advice}"
    )
