"""How much there is in a JSON text, told without parsing it. Used by ``router.http.large_bodies``; runs in the process for long texts.

A parser makes an object of each value while nobody else has a turn: 1 MiB can be half a million of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from specgrove.tokenizer import Tokenizer

_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def num_marks(content: bytes) -> int:
    """Commas and colons. Each value has one, but for the first of a list or of all; texts may have more."""
    return content.count(b",") + content.count(b":")


@dataclass(frozen=True, slots=True)
class MarksOutsideTexts:
    """Counts those that are not in texts, which are as many as there are values."""

    content: bytes

    def __call__(self, tokenizer: Tokenizer) -> int:
        """What the process runs; the tokenizer is not needed."""
        return num_marks(_TEXT.sub(b"", self.content))
