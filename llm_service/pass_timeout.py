"""How long a forward pass of the LLM service may take before it is taken to hang. Asked by ``__main__`` once the model is known."""

from __future__ import annotations

import torch

from llm_service.config import LlmServiceConfig
from specgrove.config import OFFLOADED_PASS_TIMEOUT_S, PASS_TIMEOUT_S
from specgrove.models.decoder.spec import DecoderSpec

# Operations that a busy machine without wide vectors still makes in a second: a slow pass is worth more than a restart.
_SLOWEST_CPU_FLOPS = 1e10


def pass_timeout_s_of(config: LlmServiceConfig, spec: DecoderSpec, device: torch.device) -> float:
    """As it is set; else enough for the largest pass of a model of this size."""
    if config.pass_timeout_s is not None:
        return config.pass_timeout_s
    least_s = PASS_TIMEOUT_S if config.demand.offload is None else OFFLOADED_PASS_TIMEOUT_S
    if device.type != "cpu":
        return least_s
    return max(least_s, 2 * spec.num_parameters * config.demand.max_num_rows / _SLOWEST_CPU_FLOPS)
