"""Token ids to the text a client sees: whole characters, ended by stop texts. One object per output, used by the servicer.

Invariant: the texts returned, joined, are the detokenised output cut before the stop text that is complete first (of several
that are complete at the same character, the longest), however the tokens are grouped into calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Detokenizer(Protocol):
    """``specgrove.tokenizer.IncrementalDetokenizer``."""

    def add(self, token_id: int) -> str:
        """The text that this token completes."""
        ...

    def finish(self) -> str:
        """What is left."""
        ...


class StopMatcher:
    """Holds text back only while it could be the beginning of a stop text."""

    def __init__(self, stop_texts: Sequence[str]) -> None:
        self._stop_texts = tuple(stop_texts)
        self._held = ""
        self.is_stopped = False

    def add(self, text: str) -> str:
        """The text that is certain now. After a match everything is swallowed."""
        if self.is_stopped:
            return ""
        if not self._stop_texts:
            return text
        held = self._held + text
        ends = [(start + len(stop), start) for stop in self._stop_texts if (start := held.find(stop)) >= 0]
        if ends:
            self.is_stopped = True
            self._held = ""
            return held[: min(ends)[1]]
        held_len = max(_overlap_len(held, stop) for stop in self._stop_texts)
        certain, self._held = held[: len(held) - held_len], held[len(held) - held_len :]
        return certain

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The text of some tokens. Tokens behind the one that completed a stop text are left out of ``token_texts``."""

    token_texts: tuple[str, ...]
    text: str
    is_stopped: bool


class TextStream:
    """The text of one output."""

    def __init__(self, detokenizer: Detokenizer, stop_texts: Sequence[str]) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stop_texts)

    def add(self, token_ids: Sequence[int]) -> TextPiece:
        """The next tokens' texts, and the text that is certain now."""
        token_texts, certain = [], []
        for token_id in token_ids:
            token_texts.append(self._detokenizer.add(token_id))
            certain.append(self._matcher.add(token_texts[-1]))
            if self._matcher.is_stopped:
                break
        return TextPiece(tuple(token_texts), "".join(certain), self._matcher.is_stopped)

    def finish(self) -> str:
        """The rest of the text, when the output ended without a stop text."""
        return self._matcher.add(self._detokenizer.finish()) + self._matcher.finish()


def _overlap_len(text: str, stop: str) -> int:
    """Length of the longest proper prefix of ``stop`` that ``text`` ends with."""
    for prefix_len in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:prefix_len]):
            return prefix_len
    return 0
