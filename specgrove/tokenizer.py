"""Text to token ids and back, with the model's own tokenizer files. Used by the router and by training scripts; no torch.

Owns the rules of Hugging Face transformers that matter here: which special tokens are added, how a chat template is rendered.
Invariant: the texts an ``IncrementalDetokenizer`` returns, joined, equal ``Tokenizer.decode`` of all its ids.
"""

from __future__ import annotations

import codecs
import datetime
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
import tokenizers

from specgrove.vocabulary import token_checksums

TOKENIZER_FILE_NAMES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

Message = tuple[str, str] | Mapping[str, object]
"""A (role, content) pair, or a mapping with ``role``, ``content`` and what else the chat template reads."""

# Marks the end of a message that is to be continued. The space shows whether the template trims what it is given.
_END_OF_FINAL_MESSAGE = "\ue000end of the final message\ue000 "


def _vocab_sha256(vocab: Mapping[str, int]) -> str:
    """Of all tokens with their ids: equal for models that mean the same by every id, however their files are written."""
    lines = (f"{token_id}\t{token}\n" for token_id, token in sorted((i, token) for token, i in vocab.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Tokenizer:
    """A model's tokenizer and chat template. Immutable, so threads may share it."""

    def __init__(self, tokenizer_json: bytes, config: dict[str, Any], chat_template: str | None) -> None:
        """``config`` is the content of tokenizer_config.json. Raises ``ValueError`` when a file cannot be understood."""
        try:
            self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        except Exception as error:
            raise ValueError(f"tokenizer.json is not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._config = config
        self._template = None if chat_template is None else _compile(chat_template)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_sha256 = _vocab_sha256(vocab)
        self.vocab_size = max(vocab.values(), default=-1) + 1
        # Of any text a token can stand for; byte-level vocabularies write more bytes than that, never fewer.
        self.max_token_bytes = max((len(token.encode()) for token in vocab), default=1)
        added = self._tokenizer.get_added_tokens_decoder()
        self.special_token_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        decoder = json.loads(tokenizer_json).get("decoder") or {}
        self._is_byte_level = decoder.get("type") == "ByteLevel"
        self._has_byte_fallback = any(part.get("type") == "ByteFallback" for part in decoder.get("decoders", [decoder]))

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Reads ``TOKENIZER_FILE_NAMES``; all but tokenizer.json may be absent. Raises ``FileNotFoundError``, ``ValueError``."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"no tokenizer.json in {folder}")
        config_path, template_path = folder / "tokenizer_config.json", folder / "chat_template.jinja"
        config = json.loads(config_path.read_text(encoding="utf-8")) if config_path.is_file() else {}
        if template_path.is_file():
            template: str | None = template_path.read_text(encoding="utf-8")
        else:
            template = _default_template(config.get("chat_template"))
        return cls(path.read_bytes(), config, template)

    def token_checksums(self) -> bytes:
        """See ``specgrove.vocabulary``."""
        return token_checksums(self._tokenizer.get_vocab(with_added_tokens=True))

    @property
    def has_chat_template(self) -> bool:
        """Whether ``encode_chat`` works."""
        return self._template is not None

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; special tokens are added only where the tokenizer's post-processor says so."""
        return self._tokenizer.encode(text, add_special_tokens=True).ids

    def encode_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, object] | None = None,
    ) -> list[int]:
        """Token ids of a conversation. Raises ``ValueError``, with what the template objects to."""
        text = self.render_chat(
            messages,
            add_generation_prompt,
            continue_final_message=continue_final_message,
            template_kwargs=template_kwargs,
        )
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def render_chat(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, object] | None = None,
    ) -> str:
        """The text of a conversation, as ``encode_chat`` tokenises it.

        With ``continue_final_message`` it ends where the last message's content does. ``template_kwargs`` are variables that the
        template may read, e.g. ``enable_thinking``; the conversation itself is none of them.
        """
        if self._template is None:
            raise ValueError("this model has no chat template; send the prompt as raw text")
        conversation = [_message_of(message) for message in messages]
        if continue_final_message:
            conversation[-1]["content"] = f"{conversation[-1]['content']}{_END_OF_FINAL_MESSAGE}"
        variables: dict[str, object] = {"tools": None, "documents": None, **_special_tokens(self._config)}
        variables.update(template_kwargs or {})
        variables.update(messages=conversation, add_generation_prompt=add_generation_prompt)
        try:
            text = self._template.render(variables)
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template rejects these messages: {error}") from error
        return _before_end(text) if continue_final_message else text

    def decode(self, ids: Sequence[int], keep_special_tokens: bool = False) -> str:
        """Text of ``ids``; bytes that are no UTF-8 become U+FFFD. Ids beyond the vocabulary have no text."""
        text = self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special_tokens)
        if not self._has_byte_fallback or "\ufffd" not in text:
            return text
        # One invalid byte spoils its whole run of byte tokens in tokenizers' ByteFallback. A stream has shown the valid
        # characters of that run already, so they stay valid here too.
        return self._joined(ids, keep_special_tokens)

    def _joined(self, ids: Iterable[int], keep_special_tokens: bool) -> str:
        detokenizer = IncrementalDetokenizer(self, keep_special_tokens)
        texts = [detokenizer.add(token_id) for token_id in ids]
        return "".join(texts) + detokenizer.finish()

    def _bytes_of(self, token_id: int) -> bytes | None:
        """The token's bytes where its text is decoded byte by byte; ``None`` where it is decoded as text."""
        token = self._tokenizer.id_to_token(token_id) or ""
        if self._is_byte_level:
            try:
                return bytes(_BYTE_OF_CHARACTER[character] for character in token)
            except KeyError:
                return token.encode()
        if self._has_byte_fallback and _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        return None

    def _decode_window(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class IncrementalDetokenizer:
    """Turns a growing list of token ids into text, never showing half a character. One object per output."""

    def __init__(self, tokenizer: Tokenizer, keep_special_tokens: bool = False) -> None:
        self._tokenizer = tokenizer
        self._hidden_ids = frozenset() if keep_special_tokens else tokenizer.special_token_ids
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        # The last token before the next one: it tells the decoder that the next is not the first (leading spaces).
        self._window: list[int] = []

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete, and for special tokens."""
        if token_id in self._hidden_ids or not 0 <= token_id < self._tokenizer.vocab_size:
            return ""
        token_bytes = self._tokenizer._bytes_of(token_id)
        if token_bytes is not None:
            is_first = not self._window and not self._tokenizer._is_byte_level
            self._window = [token_id]
            if is_first and token_bytes == b" ":
                return self._tokenizer._decode_window([token_id])
            return self._utf8.decode(token_bytes)
        text = self.finish()
        before = self._tokenizer._decode_window(self._window)
        after = self._tokenizer._decode_window([*self._window, token_id])
        self._window = [token_id]
        return text + after[len(before) :]

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was never completed."""
        text = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return text


def _byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's byte-to-character table (https://github.com/openai/gpt-2/blob/master/src/encoder.py)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


def _message_of(message: Message) -> dict[str, object]:
    if isinstance(message, Mapping):
        return dict(message)
    role, content = message
    return {"role": role, "content": content}


def _before_end(text: str) -> str:
    """The text up to the mark of the final message's end; trimmed where the template trims messages."""
    mark = _END_OF_FINAL_MESSAGE.strip()
    before, found, after = text.rpartition(mark)
    if not found:
        raise ValueError("the chat template leaves out the final message, so it can't be continued")
    return before if after.startswith(" ") else before.rstrip()


def _default_template(chat_template: object) -> str | None:
    """tokenizer_config.json holds one template, or a list of named ones."""
    if isinstance(chat_template, list):
        return next((entry["template"] for entry in chat_template if entry["name"] == "default"), None)
    return chat_template if isinstance(chat_template, str) else None


def _special_tokens(config: dict[str, Any]) -> dict[str, str]:
    """bos_token, eos_token and the like, which are strings or objects with a ``content``."""
    tokens = {}
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            tokens[name] = text
    return tokens


def _compile(chat_template: str) -> jinja2.Template:
    """With the settings and globals of transformers' ``render_jinja_template``."""

    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def strftime_now(format: str) -> str:
        return datetime.datetime.now().strftime(format)

    def tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)
    try:
        return environment.from_string(chat_template)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"the chat template is no valid Jinja: {error}") from error
