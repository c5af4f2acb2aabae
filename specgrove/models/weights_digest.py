"""Tells the weights of model folders apart, quickly: by the sizes of the files that count and by samples of their bytes.

Used by the LLM service, whose replicas must have the same weights, and by distillation, whose data are of one LLM. Reading all would
take as long as loading. Imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from specgrove.models.model_files import weight_files

_NUM_SAMPLES = 64
_SAMPLE_BYTES = 16 * 1024


def weights_digest(folder: Path) -> str:
    """SHA-256 in hex over the weight files' sizes, their beginnings and ends, and samples in between; not over their names."""
    digest = hashlib.sha256()
    for path in weight_files(folder):
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            for index in range(_NUM_SAMPLES + 1):
                file.seek(max(size - _SAMPLE_BYTES, 0) * index // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
