"""Token ids to text as they come. Used by ``Tokenizer`` for whole texts that need it, and by the router for streams.

Invariant: the texts an ``IncrementalDetokenizer`` returns, joined, are ``decode(prompt + output)`` less ``decode(prompt)``.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tokenizers

# More than an incomplete character has bytes.
_NUM_PROMPT_TOKENS = 8
# More than a decoder strips leading spaces.
_MAX_WINDOW_LEN = 8


class TokenTexts:
    """What text a tokenizer's decoder makes of tokens. Immutable."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, decoder: Mapping[str, Any]) -> None:
        """``decoder`` is the part of tokenizer.json of that name; empty where there is none."""
        self._tokenizer = tokenizer
        kinds = set(kinds_of(decoder))
        self.is_byte_level = "ByteLevel" in kinds
        self.has_byte_fallback = "ByteFallback" in kinds
        added = tokenizer.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)

    def has(self, token_id: int) -> bool:
        """Whether the vocabulary has the id. Vocabularies may have holes."""
        return token_id >= 0 and self._tokenizer.id_to_token(token_id) is not None

    def bytes_of(self, token_id: int) -> bytes | None:
        """The token's bytes where its text is decoded byte by byte; ``None`` where it is decoded as text."""
        token = self._tokenizer.id_to_token(token_id) or ""
        if self.is_byte_level:
            try:
                return bytes(_BYTE_OF_CHARACTER[character] for character in token)
            except KeyError:
                return token.encode()
        if self.has_byte_fallback and _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        return None

    def bytes_amid(self, token_ids: Iterable[int]) -> list[bytes]:
        """What each token stands for by itself amid a text, special ones too; empty for ids beyond the vocabulary."""
        ids = list(token_ids)
        found = [self.bytes_of(token_id) if self.has(token_id) else b"" for token_id in ids]
        as_texts = [token_id for token_id, known in zip(ids, found, strict=True) if known is None]
        # As the second of two: decoders strip a text's first space.
        ones, twos = (
            self._tokenizer.decode_batch([[token_id] * number for token_id in as_texts], skip_special_tokens=False)
            for number in (1, 2)
        )
        texts = iter([two[len(one) :].encode() for one, two in zip(ones, twos, strict=True)])
        return [next(texts) if known is None else known for known in found]

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text of some tokens in a row, special ones included."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=False)


class IncrementalDetokenizer:
    """Turns a growing list of token ids into text, never showing half a character. One object per output."""

    def __init__(
        self, texts: TokenTexts, prompt_token_ids: Sequence[int] = (), *, keep_special_tokens: bool = False
    ) -> None:
        self._texts = texts
        self._hidden_ids: Collection[int] = () if keep_special_tokens else texts.special_token_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # What lies before the next token: it tells the decoder that the next is not the first (leading spaces).
        self._window: list[int] = []
        self._num_chars_owed = 0
        for token_id in self._last_visible(prompt_token_ids):
            self._add(token_id)
        # A character that the prompt leaves incomplete is U+FFFD in the prompt's text, whatever becomes of it.
        self._num_chars_owed = len(self._utf8.getstate()[0].decode(errors="replace"))

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete, and for special tokens."""
        return self._without_owed(self._add(token_id)) if self._is_visible(token_id) else ""

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was never completed."""
        return self._without_owed(self._finish())

    def _add(self, token_id: int) -> str:
        token_bytes = self._texts.bytes_of(token_id)
        if token_bytes is None:
            return self._finish() + self._next_text(token_id)
        if token_bytes == b" " and not self._texts.is_byte_level and not self._texts.text_of(self._window):
            # It leads the text: whether it is stripped is the decoder's business.
            return self._next_text(token_id)
        self._window = [token_id]
        return self._utf8.decode(token_bytes)

    def _next_text(self, token_id: int) -> str:
        before = self._texts.text_of(self._window)
        after = self._texts.text_of([*self._window, token_id])
        if self._texts.text_of([token_id]):
            self._window = [token_id]
        else:
            # A token that has no text when it is the first doesn't tell the next one that it isn't.
            self._window = [*self._window[:1], *self._window[1:][2 - _MAX_WINDOW_LEN :], token_id]
        return after[len(before) :]

    def _finish(self) -> str:
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text

    def _without_owed(self, text: str) -> str:
        num_dropped = min(self._num_chars_owed, len(text))
        self._num_chars_owed -= num_dropped
        return text[num_dropped:]

    def _is_visible(self, token_id: int) -> bool:
        return token_id not in self._hidden_ids and self._texts.has(token_id)

    def _last_visible(self, prompt_token_ids: Sequence[int]) -> list[int]:
        last: list[int] = []
        for token_id in reversed(prompt_token_ids):
            if len(last) == _NUM_PROMPT_TOKENS:
                break
            if self._is_visible(token_id):
                last.append(token_id)
        return last[::-1]


def kinds_of(part: Mapping[str, Any]) -> Iterator[str]:
    """Types of a part of tokenizer.json, e.g. its decoder, and of those that it is made of."""
    for name in ("decoders", "pretokenizers", "normalizers"):
        for inner in part.get(name, ()):
            yield from kinds_of(inner)
    yield str(part.get("type"))


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's byte-to-character table (https://github.com/openai/gpt-2/blob/master/src/encoder.py)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
