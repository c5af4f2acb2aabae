"""Control tokens that a conversation's messages only write out: they stay text, and turn no roles. Used by ``Tokenizer``.

What a template writes is control, what it is given is not. So what it is given is marked before it is rendered; then the control tokens in
the text are the template's, and get names that nobody can know. A tokenizer that knows them by these names finds no others. Invariant: with
the names put back the text is the one that the template gives, and what is between its control tokens is tokenised as any text is.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

_NUM_NAME_BYTES = 12


class ControlTokens:
    """Those of one tokenizer: its special tokens. Immutable, but for what is made once when it is needed first."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        ids = {token.content: token_id for token_id, token in added.items() if token.special and token.content}
        # The longest first: where one is the beginning of another, the other is meant.
        self._ids = {text: ids[text] for text in sorted(ids, key=len, reverse=True)}
        self._pattern = re.compile("|".join(map(re.escape, self._ids)) or r"(?!)")
        secret = secrets.token_hex(_NUM_NAME_BYTES)
        self._names = {text: f"{secret}control{number}x" for number, text in enumerate(self._ids)}
        self._marks = {text: f"{secret}text{number}x" for number, text in enumerate(self._ids)}
        self._mark = re.compile(rf"{secret}text(\d+)x")
        self._renamed: tuple[tokenizers.Tokenizer, Mapping[int, int]] | None = None

    def are_in(self, value: object) -> bool:
        """Whether one is written out in a text, or in one that a list or mapping holds."""
        match value:
            case str():
                return self._pattern.search(value) is not None
            case Mapping():
                return any(self.are_in(inner) for inner in value.values())
            case list() | tuple():
                return any(self.are_in(inner) for inner in value)
            case _:
                return False

    def marked(self, value: object) -> Any:
        """The value with marks where they are written out."""
        match value:
            case str():
                return self._pattern.sub(lambda found: self._marks[found[0]], value)
            case Mapping():
                return {name: self.marked(inner) for name, inner in value.items()}
            case list() | tuple():
                return type(value)(self.marked(inner) for inner in value)
            case _:
                return value

    def unmarked(self, text: str) -> str:
        """The text that was meant."""
        texts = list(self._ids)
        return self._mark.sub(lambda found: texts[int(found[1])], text)

    def renamed(self, text: str) -> str:
        """What was rendered of ``marked`` values: its control tokens by their names, those that are text written out."""
        return self.unmarked(self._pattern.sub(lambda found: self._names[found[0]], text))

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The one for ``renamed`` texts. It is made in a second or so for a large vocabulary, when first asked for."""
        return self._made()[0]

    def own_ids(self, token_ids: Sequence[int]) -> list[int]:
        """What ``tokenizer`` gives, with the ids of the model."""
        ids = self._made()[1]
        return [ids.get(token_id, token_id) for token_id in token_ids]

    def _made(self) -> tuple[tokenizers.Tokenizer, Mapping[int, int]]:
        if self._renamed is None:
            content = json.loads(self._tokenizer.to_str())
            content["post_processor"] = None  # it adds tokens to texts that are no conversations
            for token in content["added_tokens"]:
                token["content"] = self._names.get(token["content"], token["content"])
            _rename_vocabulary(content["model"], self._names)
            made = tokenizers.Tokenizer.from_str(json.dumps(content))
            # All added tokens that the model's vocabulary lacks have been given new ids.
            added = self._tokenizer.get_added_tokens_decoder().items()
            new_ids = {made.token_to_id(self._names.get(token.content, token.content)): id_ for id_, token in added}
            ids = {new_id: token_id for new_id, token_id in new_ids.items() if new_id is not None}
            self._renamed = made, ids
        return self._renamed


def _rename_vocabulary(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Where the vocabulary has them, too: else a text could still become one."""
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        parts = {part for merge in model.get("merges") or () for part in _parts_of(merge)}
        names = {text: name for text, name in names.items() if text not in parts}
        model["vocab"] = {names.get(token, token): token_id for token, token_id in vocab.items()}
    elif isinstance(vocab, list):
        model["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]


def _parts_of(merge: str | list[str]) -> tuple[str, ...]:
    first, second = merge.split(" ", 1) if isinstance(merge, str) else merge
    return first, second, first + second
