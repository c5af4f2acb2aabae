"""By which token ids do two models mean the same? Told by checksums of the tokens' texts, which are small enough to send.

Made by the SSM service and the router, compared by the router. An id that means something else to the SSM is not drafted; an SSM
that shares too few ids with the LLM was made for another one.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# A few renamed special tokens, or a block of them, are far from a tenth of any vocabulary; unrelated ones share next to nothing.
MIN_SHARED = 0.9


def token_checksums(vocab: Mapping[str, int]) -> bytes:
    """CRC-32 of each token's text as little-endian uint32, by token id; 0 where no token has the id."""
    checksums = np.zeros(max(vocab.values(), default=-1) + 1, dtype="<u4")
    for token, token_id in vocab.items():
        checksums[token_id] = zlib.crc32(token.encode("utf-8", "surrogatepass")) or 1
    return checksums.tobytes()


@dataclass(frozen=True, slots=True)
class VocabularyMatch:
    """An SSM's vocabulary against the LLM's: the LLM's tokens that it shares, and the ids that mean something else to it."""

    num_shared: int
    num_tokens: int
    foreign_ids: frozenset[int]

    @property
    def is_close(self) -> bool:
        """Whether the SSM may draft, its ``foreign_ids`` left out."""
        return self.num_tokens > 0 and self.num_shared >= MIN_SHARED * self.num_tokens


def compare_vocabularies(llm_checksums: bytes, ssm_checksums: bytes) -> VocabularyMatch:
    """Both as ``token_checksums`` makes them."""
    llm, ssm = (np.frombuffer(checksums, dtype="<u4") for checksums in (llm_checksums, ssm_checksums))
    size = max(len(llm), len(ssm))
    llm, ssm = (np.pad(checksums, (0, size - len(checksums))) for checksums in (llm, ssm))
    foreign_ids = np.flatnonzero(llm != ssm)
    num_tokens = int(np.count_nonzero(llm))
    return VocabularyMatch(
        num_shared=int(np.count_nonzero((llm == ssm) & (llm != 0))),
        num_tokens=num_tokens,
        foreign_ids=frozenset(foreign_ids.tolist()),
    )
