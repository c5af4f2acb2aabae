"""Tells the weights of model folders apart, quickly: by the sizes of the files that count and by samples of their bytes.

Used by the LLM service, whose replicas must have the same weights, and by distillation, whose data are of one LLM. Reading all would
take as long as loading. Imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from specgrove.models.folders.model_files import weight_files
from specgrove.models.folders.sampled_digest import sampled_digest


def weights_digest(folder: Path) -> str:
    """SHA-256 in hex over the weight files, as ``sampled_digest`` reads them; not over their names."""
    digests = [sampled_digest(path) for path in weight_files(folder)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
