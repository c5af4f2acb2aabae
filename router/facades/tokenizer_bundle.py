"""The tokenizer's files as a zip archive in pieces, as gateways fetch them. Used by ``vllm_engine``."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping

_PIECE_BYTES = 64 << 10
# The same files give the same bytes: gateways compare their sums.
_DATE = (1980, 1, 1, 0, 0, 0)


def zip_pieces(files: Mapping[str, bytes]) -> Iterator[tuple[bytes, str]]:
    """The archive's pieces, in order, the last one with the SHA-256 of all; the others have an empty text."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(files.items()):
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    for start in range(0, len(content), _PIECE_BYTES):
        is_last = start + _PIECE_BYTES >= len(content)
        yield content[start : start + _PIECE_BYTES], digest if is_last else ""
