"""All tokens' bytes, as llguidance looks them up: the vocabulary of structured outputs. Made once per ``Tokenizer``, when first asked for.

Invariant: the bytes of tokens that follow one another, joined, are the text that they add to an output. Special tokens have none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import llguidance

# A token boundary lies behind it in every tokenizer, and nothing is put in before what follows it, as before the first word of a text.
_ANCHOR = "\n"


def token_trie(
    token_bytes: Sequence[bytes], special_token_ids: Collection[int], encode: Callable[[str], list[int]]
) -> llguidance.LLTokenizer:
    """``token_bytes`` is by id, empty where no token has the id; ``encode`` tokenises without adding special tokens.

    What ends an output differs from request to request, so the trie has a token of its own for it: ``len(token_bytes)``.
    """
    vocabulary = _Vocabulary(token_bytes, special_token_ids, encode)
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(vocabulary), n_vocab=len(token_bytes) + 1)


class _Vocabulary:
    """As ``llguidance.TokenizerWrapper`` wants it. Called with a text that must come next, it says by which tokens."""

    def __init__(
        self, token_bytes: Sequence[bytes], special_token_ids: Collection[int], encode: Callable[[str], list[int]]
    ) -> None:
        self.eos_token_id = len(token_bytes)
        self.bos_token_id = None
        self.tokens = [*token_bytes, b"<end of output>"]
        self.special_token_ids = [*special_token_ids, self.eos_token_id]
        self._encode = encode
        self._hidden = frozenset(self.special_token_ids)
        self._id_of_bytes = {
            part: token_id for token_id, part in enumerate(token_bytes) if part and token_id not in self._hidden
        }
        self._longest = max(map(len, self._id_of_bytes), default=1)

    def __call__(self, text: str) -> list[int]:
        """Tokens whose bytes are those of ``text``, by the tokenizer's rules where they give such."""
        if not isinstance(text, str):
            raise TypeError("takes texts")
        wanted = text.encode()
        for anchor in ("", _ANCHOR):
            head, ids = self._encode(anchor), self._encode(anchor + text)
            tail = ids[len(head) :]
            written = b"".join(self.tokens[token_id] for token_id in tail)
            if ids[: len(head)] == head and written == wanted and self._hidden.isdisjoint(tail):
                return tail
        return self._greedy(wanted)

    def _greedy(self, wanted: bytes) -> list[int]:
        """The longest token each time; ends where there is none."""
        ids, place = [], 0
        while place < len(wanted):
            sizes = range(min(self._longest, len(wanted) - place), 0, -1)
            parts = (wanted[place : place + size] for size in sizes)
            part = next((part for part in parts if part in self._id_of_bytes), None)
            if part is None:
                break
            ids.append(self._id_of_bytes[part])
            place += len(part)
        return ids
