"""From a folder to a ``HiddenStateSsm``. Called by ``ssm_service.loading`` for folders of SSMs that read the LLM's hidden states."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch

from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.made_folder import digest_of
from specgrove.models.folders.model_files import name_of
from specgrove.models.hidden_state.loading import read_hidden_ssm
from specgrove.models.hidden_state.program_weights import program_spec_of, program_weights_of
from specgrove.program.decoder import DTYPES
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.hidden_state import HiddenStateModel
from specgrove.program.stores import MemoryWeights
from specgrove.runtime.devices import has_gpu_kernels
from specgrove.runtime.hidden_state_runner import HiddenStateRunner
from specgrove.settings.ssm_specs import SsmSpec
from specgrove.tokenizer.ssm_vocabulary import read_vocabulary
from ssm_service.config import SsmServiceConfig
from ssm_service.draft_tree import Beam, Expansion
from ssm_service.first_choices import FirstChoices
from ssm_service.hidden_state import HiddenStateSsm

logger = logging.getLogger(__name__)
_RECORD_VERSION = 1


def load_hidden_ssm(
    spec: SsmSpec, folder: Path, config: SsmServiceConfig, rule: Beam | Expansion, device: torch.device
) -> HiddenStateSsm:
    """Raises ``ValueError`` with what is wrong with the SSM, or doesn't fit the LLM."""
    assert config.llm_model is not None, "it was asked for before"
    llm_folder = resolve_model(config.llm_model, cache_dir=config.cache_dir, progress=logger.info)
    found = read_hidden_ssm(folder, llm_folder)
    weights = program_weights_of(found.spec, found.tensors, found.ends, spec.quantization)
    dtype, layer = DTYPES[config.demand.dtype], program_spec_of(found.spec, found.ends)
    has_kernels = has_gpu_kernels(config.demand.gpu_kernels, layer.layer, dtype, device)
    store = MemoryWeights() if device.type == "cpu" else DeviceWeights(device, has_kernels=has_kernels)
    model = HiddenStateModel(layer, weights, dtype, store)
    own = found.spec
    if spec.noise_weight is not None:
        own = replace(own, calibration=replace(own.calibration, noise_weight=spec.noise_weight))
    return HiddenStateSsm(
        spec.name,
        own,
        HiddenStateRunner(model, config.demand.num_slots),
        rule,
        vocabulary=read_vocabulary(llm_folder),
        first_choices=FirstChoices(spec.name, found.spec.first_choice_floor, _record_of(folder, llm_folder, config)),
    )


def _record_of(folder: Path, llm_folder: Path, config: SsmServiceConfig) -> Path:
    """Where the share of right first choices is kept, which these weights give with this LLM."""
    files = [path for path in folder.iterdir() if path.is_file()]
    digest = digest_of(files, name_of(llm_folder), _RECORD_VERSION)
    return config.cache_dir / "first_choices" / f"{digest}.json"
