"""From ``SsmSpec`` to an SSM that drafts: models are resolved, loaded and given their KV cache. Called by ``__main__``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from specgrove.config import MAX_HIDDEN_WINDOW
from specgrove.kernels.device_memory import PassLimits
from specgrove.models.decoder.family import read_spec
from specgrove.models.folders.gguf_model import weights_note
from specgrove.models.folders.model_files import weight_files
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.models.hidden_state.recognition import reads_hidden_states
from specgrove.models.hidden_state.spec import Calibration
from specgrove.models.planning.ssm_fitting import SSM_MAX_NUM_ASKED, SSM_MAX_NUM_ROWS, found_ssm
from specgrove.program.decoder import DTYPES
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MemoryWeights
from specgrove.runtime.devices import has_gpu_kernels, runner_for
from specgrove.settings.ssm_specs import SsmSpec
from specgrove.tokenizer.ssm_vocabulary import read_vocabulary
from specgrove.v1 import ssm_pb2
from ssm_service.config import SsmServiceConfig, rule_of
from ssm_service.corpus import Corpus
from ssm_service.draft_vocab import DraftVocab
from ssm_service.hidden_loading import load_hidden_ssm
from ssm_service.hidden_state import HiddenStateSsm
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.pass_drafter import PassDrafter
from ssm_service.recycle import NUM_FOLLOWING, RecycleSsm

logger = logging.getLogger(__name__)

_MAP_NAME = "draft_token_ids"


def load_ssm(
    spec: SsmSpec, config: SsmServiceConfig, device: torch.device
) -> PassDrafter[Any] | LookupSsm | RecycleSsm:
    """Raises ``ValueError`` with what is wrong with the model."""
    rule = rule_of(spec)
    if spec.mode == "recycle":
        return RecycleSsm(spec.name, spec.store)
    if spec.model is None or rule is None:
        return LookupSsm(spec.name, Corpus(spec.corpus, spec.store) if spec.corpus else None)
    folder = found_ssm(spec, config.cache_dir, logger.info).folder
    if reads_hidden_states(folder):
        hidden = load_hidden_ssm(spec, folder, config, rule, device)
        logger.info(
            "%s: %.1fM parameters from %s, %s, over hidden states at layers %s", spec.name, hidden.num_parameters / 1e6, folder,
            spec.mode, ", ".join(map(str, hidden.spec.hidden_layers)),
        )  # fmt: skip
        return hidden
    folder = ensure_quantized(folder, spec.quantization, config.cache_dir, logger.info)
    if (note := weights_note(folder, config.demand.dtype)) is not None:
        logger.info("%s: %s", spec.name, note)
    dtype = DTYPES[config.demand.dtype]
    vocabulary = read_vocabulary(folder)
    has_kernels = has_gpu_kernels(config.demand.gpu_kernels, read_spec(folder), dtype, device)
    store = MemoryWeights() if device.type == "cpu" else DeviceWeights(device, has_kernels=has_kernels)
    decoder = load_decoder(folder, dtype, store=store)
    max_model_len = min(decoder.spec.max_position_embeddings, config.demand.num_slots)
    limits = PassLimits(SSM_MAX_NUM_ROWS, SSM_MAX_NUM_ASKED, max_model_len, config.demand.num_slots)
    logger.info("%s: %.1fM parameters from %s, %s", spec.name, decoder.spec.num_parameters / 1e6, folder, spec.mode)
    return NeuralSsm(
        spec.name,
        runner_for(decoder, limits, config.demand.gpu_kernels),
        rule,
        read_draft_vocab(folder),
        vocabulary=vocabulary,
        calibration=Calibration() if spec.noise_weight is None else Calibration(noise_weight=spec.noise_weight),
        has_prefix_cache=config.has_prefix_cache,
    )


def read_draft_vocab(folder: Path) -> DraftVocab | None:
    """The map of an SSM with a vocabulary of its own; None where it shares the LLM's."""
    for path in weight_files(folder):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            if _MAP_NAME in file.keys():  # noqa: SIM118
                ids: torch.Tensor = file.get_tensor(_MAP_NAME)
                try:
                    return DraftVocab(ids)
                except ValueError as error:
                    raise ValueError(f"{path}: {_MAP_NAME}: {error}") from error
    return None


def info_of(spec: SsmSpec, ssm: PassDrafter[Any] | LookupSsm | RecycleSsm) -> ssm_pb2.SsmInfo:
    """What the service says about one SSM."""
    info = ssm_pb2.SsmInfo(name=spec.name, mode=spec.mode)
    if isinstance(ssm, PassDrafter):
        info.vocab_sha256 = ssm.vocabulary.sha256
        info.max_model_len = ssm.max_model_len
        info.num_parameters = ssm.num_parameters
    if isinstance(ssm, HiddenStateSsm):
        info.mode = "hidden"
        info.hidden_layers.extend(ssm.spec.hidden_layers)
        info.hidden_window = min(ssm.spec.hidden_window, MAX_HIDDEN_WINDOW)
        info.hidden_size = ssm.spec.target_hidden_size
    if isinstance(ssm, RecycleSsm):
        info.num_row_top_k = NUM_FOLLOWING
    return info
