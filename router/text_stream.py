"""Token ids to the text a client sees: whole characters, ended by stop texts. One object per output, used by the servicer.

Invariant: the texts returned, joined, are the detokenised output cut before the stop text that is complete first (of several
that are complete at the same character, the longest), however the tokens are grouped into calls. What ends an output, a text or
a token, is no part of it.
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
    """Holds text back only while it could be the beginning of a stop text. ``stop_text`` is the one that was found."""

    def __init__(self, stop_texts: Sequence[str]) -> None:
        self._stop_texts = tuple(stop_texts)
        self._held = ""
        self.stop_text: str | None = None

    def add(self, text: str, *, may_end: bool = True) -> str:
        """The text that is certain now. After a match everything is swallowed. Unless it ``may_end`` here, what completes a stop
        text is text as any other, though another stop text may begin in it.
        """
        if self.stop_text is not None:
            return ""
        if not self._stop_texts:
            return text
        held = self._held + text
        if may_end and (found := self._first_in(held)) is not None:
            start, self.stop_text = found
            self._held = ""
            return held[:start]
        held_len = max(_overlap_len(held, stop) for stop in self._stop_texts)
        certain, self._held = held[: len(held) - held_len], held[len(held) - held_len :]
        return certain

    def _first_in(self, held: str) -> tuple[int, str] | None:
        """Start and text of the stop text that is complete first. One that ended in text added before was let pass there."""
        old_len = len(self._held)
        found = []
        for stop in self._stop_texts:
            start = held.find(stop, max(0, old_len - len(stop) + 1))
            if start >= 0:
                found.append((start + len(stop), start, stop))
        return min(found)[1:] if found else None

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        return held


@dataclass(frozen=True, slots=True)
class TextPiece:
    """The text of some tokens. Tokens behind the one that completed ``stop_text`` are left out of ``token_texts``."""

    token_texts: tuple[str, ...]
    text: str
    stop_text: str | None


class TextStream:
    """The text of one output. Stop texts count from the token after the first ``min_tokens`` on."""

    def __init__(self, detokenizer: Detokenizer, stop_texts: Sequence[str], min_tokens: int = 0) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stop_texts)
        self._min_tokens = min_tokens
        self._num_tokens = 0

    def add(self, token_ids: Sequence[int], *, ends_with_stop_token: bool = False) -> TextPiece:
        """The next tokens' texts, and the text that is certain now. A stop token ends the output and has no text in it."""
        token_texts, certain = [], []
        last = len(token_ids) - 1
        for index, token_id in enumerate(token_ids):
            self._num_tokens += 1
            is_stop_token = ends_with_stop_token and index == last
            token_texts.append("" if is_stop_token else self._detokenizer.add(token_id))
            certain.append(self._match(token_texts[-1]))
            if self._matcher.stop_text is not None:
                break
        return TextPiece(tuple(token_texts), "".join(certain), self._matcher.stop_text)

    def finish(self) -> TextPiece:
        """The rest of the text, when the output ended without a stop text. It may complete one."""
        certain = self._match(self._detokenizer.finish())
        return TextPiece((), certain + self._matcher.finish(), self._matcher.stop_text)

    def _match(self, text: str) -> str:
        return self._matcher.add(text, may_end=self._num_tokens > self._min_tokens)


def _overlap_len(text: str, stop: str) -> int:
    """Length of the longest proper prefix of ``stop`` that ``text`` ends with."""
    for prefix_len in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:prefix_len]):
            return prefix_len
    return 0
