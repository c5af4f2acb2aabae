"""Which tokens a tokenizer's files add to its vocabulary, and which of them have a role (``bos_token``), as transformers loads them.

Used by ``files`` and ``Tokenizer``. The rules are those of transformers 5: special_tokens_map.json and added_tokens.json count where
tokenizer_config.json has no ``added_tokens_decoder``, and go before it; tokens with a role are special.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tokenizers

from specgrove.files.json_files import JsonObject

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_BY_ID = "added_tokens_decoder"


@dataclass(frozen=True, slots=True)
class DeclaredTokens:
    """``by_role`` are those that templates know by name, ``others`` further special ones; ``added`` are added in this order."""

    by_role: Mapping[str, tokenizers.AddedToken]
    others: tuple[tokenizers.AddedToken, ...]
    added: tuple[tokenizers.AddedToken, ...]

    def texts_by_role(self) -> dict[str, str]:
        """Variables for chat templates."""
        return {role: token.content for role, token in self.by_role.items()}

    def add_to(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Adds what ``tokenizer`` lacks."""
        held = tokenizer.get_added_tokens_decoder().values()
        held_with_flags = {repr(token) for token in held}
        missing = [token for token in self.added if repr(token) not in held_with_flags]
        contents = {token.content for token in (*held, *missing)}
        for token in (*self.by_role.values(), *self.others):
            if token.content not in contents:
                missing.append(token)
                contents.add(token.content)
        names = {token.content for token in self.by_role.values()}
        for token in missing:
            token.special = token.special or token.content in names
        tokenizer.add_tokens(missing)


def declared_tokens(
    config: JsonObject, special_tokens_map: JsonObject | None = None, added_tokens: JsonObject | None = None
) -> DeclaredTokens:
    """By the files' contents; those that are not there are ``None``. Raises ``JsonFileError``."""
    by_role = _by_role(config)
    others = _others(config)
    if config.has(_BY_ID):
        return DeclaredTokens(by_role, others, _added_by_id(config))
    if special_tokens_map is not None:
        by_role = {role: token for role, token in by_role.items() if role not in special_tokens_map}
        by_role |= _by_role(special_tokens_map)
        others += _listed(special_tokens_map, "extra_special_tokens")
    special = {token.content for token in (*by_role.values(), *others)}
    added = () if added_tokens is None else _added_by_text(added_tokens, special)
    return DeclaredTokens(by_role, others, added)


def _by_role(config: JsonObject) -> dict[str, tokenizers.AddedToken]:
    """The usual roles, and those that a model has of its own: keys that end with ``_token`` and hold one."""
    found = {}
    for key in config:
        is_usual = key in _ROLES
        is_own = not is_usual and key.endswith("_token") and isinstance(config[key], str | Mapping)
        if (is_usual or is_own) and config.has(key):
            found[key] = _token(config, key)
    if isinstance(config.get("extra_special_tokens"), Mapping):
        named = config.object("extra_special_tokens")
        found |= {key: _token(named, key) for key in named if named.has(key)}
    return found


def _others(config: JsonObject) -> tuple[tokenizers.AddedToken, ...]:
    extra = config.get("extra_special_tokens")
    if isinstance(extra, Mapping):
        return ()
    return _listed(config, "extra_special_tokens" if extra else "additional_special_tokens")


def _listed(config: JsonObject, key: str) -> tuple[tokenizers.AddedToken, ...]:
    values = config.get(key)
    if values is None or isinstance(values, Mapping):
        return ()
    if not isinstance(values, list):
        raise config.error(key, "a list of tokens")
    listed = JsonObject({f"{key}[{index}]": value for index, value in enumerate(values)}, config.place)
    return tuple(_token(listed, name) for name in listed)


def _added_by_id(config: JsonObject) -> tuple[tokenizers.AddedToken, ...]:
    by_id = config.object(_BY_ID)
    ids = {}
    for key in by_id:
        if not key.isdecimal():
            raise config.error(_BY_ID, f"an object whose keys are token ids, not {key!r}")
        ids[int(key)] = key
    # Unlike a token by its role, one of these is special only where it says so.
    return tuple(_token(by_id, ids[token_id], is_special=False) for token_id in sorted(ids))


def _added_by_text(added_tokens: JsonObject, special: set[str]) -> tuple[tokenizers.AddedToken, ...]:
    ids = {text: added_tokens.integer(text) for text in added_tokens}
    texts = sorted(ids, key=lambda text: ids[text])
    return tuple(tokenizers.AddedToken(text, normalized=text not in special, special=text in special) for text in texts)


def _token(config: JsonObject, key: str, *, is_special: bool = True) -> tokenizers.AddedToken:
    """A text, or an object with a ``content`` and flags."""
    value = config[key]
    if isinstance(value, str):
        return tokenizers.AddedToken(value, special=is_special)
    if not isinstance(value, Mapping):
        raise config.error(key, "a token: text, or an object with a content")
    token = config.object(key)
    flags = {name: token.flag(name, False) for name in _FLAGS if token.has(name)}
    return tokenizers.AddedToken(token.text("content"), **{"special": is_special, **flags})
