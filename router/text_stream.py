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


class _StopText:
    """How much of a stop text a text ends with that is added character by character (Knuth, Morris and Pratt).

    A character takes two comparisons on average, however long the stop text is and however much of it has come.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.num_matched = 0
        # By the number of characters matched: what stays when the next one is another. It grows with what is matched.
        self._fallbacks = [0, 0]

    def add(self, character: str) -> bool:
        """Whether the stop text is complete with it. ``num_matched`` is then what may be the beginning of a further one."""
        text = self.text
        self.num_matched = self._after(self.num_matched, character)
        if self.num_matched == len(self._fallbacks):
            self._fallbacks.append(self._after(self._fallbacks[-1], text[self.num_matched - 1]))
        if self.num_matched < len(text):
            return False
        self.num_matched = self._fallbacks[len(text)]
        return True

    def _after(self, num_matched: int, character: str) -> int:
        while (is_other := self.text[num_matched] != character) and num_matched:
            num_matched = self._fallbacks[num_matched]
        return num_matched + (not is_other)


class StopMatcher:
    """Holds text back only while it could be the beginning of a stop text. ``stop_text`` is the one that was found."""

    def __init__(self, stop_texts: Sequence[str]) -> None:
        self._stop_texts = [_StopText(text) for text in stop_texts]
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
        for end, character in enumerate(text, len(self._held) + 1):
            complete = [stop.text for stop in self._stop_texts if stop.add(character)]
            if complete and may_end:
                self.stop_text = max(complete, key=len)
                self._held = ""
                return held[: end - len(self.stop_text)]
        held_len = max(stop.num_matched for stop in self._stop_texts)
        certain, self._held = held[: len(held) - held_len], held[len(held) - held_len :]
        return certain

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
