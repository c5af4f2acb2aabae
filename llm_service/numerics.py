"""What decides the bits of a model's outputs, in words that routers compare: replicas that differ in one must not share sessions."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from llm_service.config import LlmServiceConfig
from specgrove.kernels.arithmetic import ARITHMETIC
from specgrove.kernels.threads import get_isa
from specgrove.models.folders.model_files import quantization_kind
from specgrove.models.folders.weights_digest import weights_digest
from specgrove.program.decoder import Decoder
from specgrove.structures.grammars import ENGINE
from specgrove.version import version


def numerics_of(config: LlmServiceConfig, folder: Path, decoder: Decoder) -> tuple[str, ...]:
    """E.g. ``("weights 3f…", "dtype bfloat16", "cpu avx512", …)``; the same for replicas that give the same bits."""
    device = decoder.device
    where = f"cpu {get_isa()}"
    if device.type == "cuda":  # where some ops are torch's, or all
        where = f"gpu {torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return (
        f"weights {model_digest(folder)[:16]}",
        f"dtype {config.demand.dtype}",
        # As the weights are, whoever quantised them: `specgrove serve` does so before the service starts.
        f"quantization {quantization_kind(folder) or 'none'}",
        f"layout {config.demand.layout.tensor_size} x {config.demand.layout.num_stages}",
        where,
        f"kernels {type(decoder.executable).__name__}",
        f"arithmetic {ARITHMETIC}",
        f"structures by {ENGINE}",
        f"version {version()}",
    )


def model_digest(folder: Path) -> str:
    """SHA-256 in hex over the configuration and ``weights_digest``."""
    config = (folder / "config.json").read_bytes()
    return hashlib.sha256(weights_digest(folder).encode() + config).hexdigest()
