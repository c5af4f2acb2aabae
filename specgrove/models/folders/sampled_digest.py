"""Tells files apart by their beginnings and by samples of the rest, since reading all of a model would take as long as loading it.

Used for what is made of models once, and to compare weights. Imports neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_BEGINNING_BYTES = 8 * 1024 * 1024  # headers, and the tokenizers in them
_NUM_SAMPLES = 64
_SAMPLE_BYTES = 16 * 1024


def sampled_digest(path: Path) -> str:
    """SHA-256 in hex over the size, the first 8 MiB, the end, and samples in between; not over the name."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"{size}\n".encode())
    with path.open("rb") as file:
        digest.update(file.read(_BEGINNING_BYTES))
        if size > _BEGINNING_BYTES:
            for index in range(_NUM_SAMPLES + 1):
                file.seek(max(size - _SAMPLE_BYTES, 0) * index // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
