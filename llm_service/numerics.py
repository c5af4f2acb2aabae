"""What decides the bits of a model's outputs, in words that routers compare: replicas that differ in one of them must not share sessions.

Weights are told apart by the names and sizes of their files and by samples of their bytes: reading all would take as long as loading.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path

import torch

from llm_service.config import LlmServiceConfig
from specgrove.kernels.threads import get_isa
from specgrove.models.decoder import Decoder

_WEIGHT_SUFFIXES = (".safetensors", ".gguf")
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 16 * 1024


def numerics_of(config: LlmServiceConfig, folder: Path, decoder: Decoder) -> tuple[str, ...]:
    """E.g. ``("weights 3f…", "dtype bfloat16", "cpu avx512", …)``; the same for replicas that give the same bits."""
    device = decoder.device
    where = f"gpu {torch.cuda.get_device_name(device)}" if device.type == "cuda" else f"cpu {get_isa()}"
    return (
        f"weights {weights_digest(folder)[:16]}",
        f"dtype {config.dtype}",
        f"quantization {config.quantization}",
        f"layout {config.layout.tensor_size} x {config.layout.num_stages}",
        where,
        f"kernels {type(decoder.ops).__name__}",
        f"version {_version()}",
    )


def weights_digest(folder: Path) -> str:
    """SHA-256 in hex over the configuration, the weight files' sizes, their beginnings and ends, and samples in between."""
    digest = hashlib.sha256()
    files = [folder] if folder.is_file() else sorted(path for path in folder.iterdir() if _decides(path))
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for index in range(_NUM_SAMPLES + 1):
                file.seek(max(size - _SAMPLE_BYTES, 0) * index // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _decides(path: Path) -> bool:
    return path.suffix in _WEIGHT_SUFFIXES or path.name == "config.json"


def _version() -> str:
    try:
        return importlib.metadata.version("specgrove")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "source"
