"""A model's tokenizer: text and conversations to token ids, token ids to text.

Made once by whoever needs it, immutable afterwards, so threads may share it. Invariant: work on a long text leaves the interpreter
to other threads, but for the moments that it takes to hand over what was made.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from specgrove.files.json_files import JsonObject
from specgrove.tokenizer.chat_template import ChatOptions, ChatTemplates
from specgrove.tokenizer.control_tokens import ControlTokens
from specgrove.tokenizer.detokenizer import IncrementalDetokenizer, TokenTexts, kinds_of
from specgrove.tokenizer.files import read_tokenizer_files
from specgrove.tokenizer.messages import Message
from specgrove.tokenizer.special_tokens import DeclaredTokens, declared_tokens
from specgrove.tokenizer.vocabulary import token_checksums

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# Longer texts go the way that leaves the interpreter to others; for shorter ones it would take longer than the work.
_LONG_LEN = 4096
# Texts are counted in parts of so many characters, which bounds the memory that a text takes that is too long.
_PART_LEN = 65536
# At a cut between two parts other tokens may be made than in the whole text, and a few more.
_NUM_TOKENS_AT_CUT = 64
_NUM_LONG_IDS = 1024
_USUAL = ChatOptions()


def chat_problem_of(folder: Path) -> str | None:
    """Why a model can't take conversations, or ``None``; told by its chat templates, without reading the vocabulary.

    Raises ``OSError``, ``ValueError``.
    """
    files = read_tokenizer_files(folder)
    return ChatTemplates(files.templates, files.tokens.texts_by_role()).problem


class Tokenizer:
    """A model's tokenizer and chat templates."""

    def __init__(
        self,
        tokenizer_json: bytes,
        config: Mapping[str, object],
        chat_template: str | Mapping[str, str] | None,
        tokens: DeclaredTokens | None = None,
    ) -> None:
        """``config`` is the content of tokenizer_config.json, ``tokens`` what it and other files say of tokens.

        Raises ``ValueError`` when a file cannot be understood.
        """
        self._made_of = (tokenizer_json, config, chat_template, tokens)
        values = JsonObject(config, "tokenizer_config.json")
        tokens = declared_tokens(values) if tokens is None else tokens
        self._tokenizer, decoder = _read(tokenizer_json)
        own_vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_sha256 = _vocab_sha256(own_vocab)
        tokens.add_to(self._tokenizer)
        self._tokenizer.encode_special_tokens = values.flag("split_special_tokens", False)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        # By tokenizer.json alone vocabularies are compared: what another file adds has no row in the model, unless by chance.
        self._foreign = vocab.keys() - own_vocab.keys()
        self.vocab_size = max(vocab.values(), default=-1) + 1
        # Of any text a token can stand for; byte-level vocabularies write more bytes than that, never fewer.
        self.max_token_bytes = max((len(token.encode()) for token in vocab), default=1)
        self._texts = TokenTexts(self._tokenizer, decoder)
        self._token_bytes: dict[int, bytes] = {}
        self._tokens = tokens
        self._control = ControlTokens(self._tokenizer)
        templates = {"default": chat_template} if isinstance(chat_template, str) else chat_template
        self._templates = ChatTemplates(templates or {}, tokens.texts_by_role())

    @classmethod
    def from_folder(cls, folder: Path | str) -> Tokenizer:
        """Reads ``TOKENIZER_FILE_NAMES``; all but tokenizer.json may be absent. Raises ``OSError``, ``ValueError``."""
        files = read_tokenizer_files(Path(folder))
        try:
            return cls(files.tokenizer_json, files.config, files.templates, files.tokens)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from error

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[object, ...]]:
        """Another process makes it again, of the same files."""
        return Tokenizer, self._made_of

    def token_checksums(self) -> bytes:
        """See ``specgrove.tokenizer.vocabulary``."""
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        return token_checksums({token: token_id for token, token_id in vocab.items() if token not in self._foreign})

    @property
    def num_ids(self) -> int:
        """One more than the highest token id, with those that were added."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def num_ordinary_ids(self) -> int:
        """One more than the highest id of a token that ordinary text may have: added ones are left out."""
        return max(self._tokenizer.get_vocab(with_added_tokens=False).values(), default=-1) + 1

    @property
    def special_token_ids(self) -> frozenset[int]:
        """Those that have no text, unless it is asked for."""
        return self._texts.special_token_ids

    def special_token_id(self, text: str) -> int | None:
        """Of the special token that is written so, if there is one."""
        token_id = self._tokenizer.token_to_id(text)
        return token_id if token_id in self._texts.special_token_ids else None

    @property
    def has_chat_template(self) -> bool:
        """Whether ``encode_chat`` works."""
        return self._templates.problem is None

    @property
    def chat_template_defect(self) -> str | None:
        """Why conversations can't be taken though the model has a chat template."""
        return self._templates.problem if self._templates.is_broken else None

    @property
    def tool_template(self) -> str:
        """The source of the chat template for conversations with tools; empty where there is none."""
        return self._templates.source_for_tools

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that has this role in the tokenizer's files."""
        return self._id_of_role("eos_token")

    def answer_end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer in a conversation: by role, and by what the chat template writes behind an answer."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        end_of_turn = self._templates.end_of_turn(token.content for token in added)
        by_template = None if end_of_turn is None else self._tokenizer.token_to_id(end_of_turn)
        ids = (self.eos_token_id, self._id_of_role("eot_token"), by_template)
        return tuple(dict.fromkeys(token_id for token_id in ids if token_id is not None))

    def encode(self, text: str, max_num_tokens: int | None = None) -> list[int]:
        """Token ids of ``text``; special tokens are added only where the tokenizer's post-processor says so.

        Raises ``ValueError`` where there are more than ``max_num_tokens``, before much time and memory have gone into them.
        """
        return self._encode(text, max_num_tokens, add_special_tokens=True)

    def encode_chat(
        self, messages: Sequence[Message], options: ChatOptions = _USUAL, *, max_num_tokens: int | None = None
    ) -> list[int]:
        """Token ids of a conversation. Raises ``ValueError``, with what the template objects to, and as ``encode``.

        Special tokens that its messages write out are text, unless the options say otherwise.
        """
        if not self.writes_control_tokens(messages, options):
            return self._encode(self.render_chat(messages, options), max_num_tokens, add_special_tokens=False)
        control = self._control
        marked = [control.marked(message) for message in messages]
        text = self.render_chat(marked, replace(options, template_kwargs=control.marked(options.template_kwargs)))
        token_ids = self._encode(
            control.renamed(text), max_num_tokens, add_special_tokens=False, tokenizer=control.tokenizer
        )
        return control.own_ids(token_ids)

    def writes_control_tokens(self, messages: Sequence[Message], options: ChatOptions = _USUAL) -> bool:
        """Whether a conversation writes special tokens out that must stay text. The first one of these takes a second or so."""
        if options.has_control_tokens or self._tokenizer.encode_special_tokens:
            return False
        return self._control.are_in(list(messages)) or self._control.are_in(options.template_kwargs)

    def render_chat(self, messages: Sequence[Message], options: ChatOptions = _USUAL) -> str:
        """The text of a conversation, as ``encode_chat`` tokenises it. Raises ``ValueError``."""
        return self._templates.render(messages, options)

    def encode_rendered(self, text: str) -> list[int]:
        """Token ids of a part of what ``render_chat`` gives, which has its special tokens already."""
        return self._encode(text, None, add_special_tokens=False)

    def decode(self, ids: Sequence[int], keep_special_tokens: bool = False) -> str:
        """Text of ``ids``; bytes that are no UTF-8 become U+FFFD. Ids beyond the vocabulary have no text.

        Spaces before punctuation stay, whatever ``clean_up_tokenization_spaces`` says: the text is the tokens' own.
        """
        if len(ids) < _NUM_LONG_IDS:
            text = self._tokenizer.decode(list(ids), skip_special_tokens=not keep_special_tokens)
        else:
            text = self._tokenizer.decode_batch([list(ids)], skip_special_tokens=not keep_special_tokens)[0]
        if not self._texts.has_byte_fallback or "\ufffd" not in text:
            return text
        # One invalid byte spoils its whole run of byte tokens in tokenizers' ByteFallback. A stream has shown the valid
        # characters of that run already, so they stay valid here too.
        detokenizer = self.detokenizer(keep_special_tokens=keep_special_tokens)
        return "".join([detokenizer.add(token_id) for token_id in ids]) + detokenizer.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """What a token stands for by itself amid a text, special tokens too; may be a part of a character."""
        # Kept: log-probabilities ask for the same ones again and again.
        if (token_bytes := self._token_bytes.get(token_id)) is None:
            (token_bytes,) = self._texts.bytes_amid([token_id])
            self._token_bytes[token_id] = token_bytes
        return token_bytes

    @functools.cached_property
    def token_trie(self) -> LLTokenizer:
        """All tokens by what they stand for; see ``specgrove.tokenizer.token_trie``. Made when first asked for, in a second or less."""
        # Imported where outputs are structured only.
        from specgrove.tokenizer.token_trie import token_trie

        token_bytes = self._texts.bytes_amid(range(self.vocab_size))
        encode = functools.partial(self._encode, max_num_tokens=None, add_special_tokens=False)
        return token_trie(token_bytes, self.special_token_ids, encode)

    def detokenizer(
        self, prompt_token_ids: Sequence[int] = (), *, keep_special_tokens: bool = False
    ) -> IncrementalDetokenizer:
        """For an output that follows ``prompt_token_ids``."""
        return IncrementalDetokenizer(self._texts, prompt_token_ids, keep_special_tokens=keep_special_tokens)

    def _id_of_role(self, role: str) -> int | None:
        token = self._tokens.by_role.get(role)
        return None if token is None else self._tokenizer.token_to_id(token.content)

    def _encode(
        self,
        text: str,
        max_num_tokens: int | None,
        *,
        add_special_tokens: bool,
        tokenizer: tokenizers.Tokenizer | None = None,
    ) -> list[int]:
        tokenizer = tokenizer or self._tokenizer
        if len(text) < _LONG_LEN:
            encoding = tokenizer.encode(text, add_special_tokens=add_special_tokens)
        else:
            if max_num_tokens is not None:
                self._check_parts(text, max_num_tokens)
            encoding = tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0]
        if max_num_tokens is not None and len(encoding) > max_num_tokens:
            raise ValueError(f"has {len(encoding)} tokens; at most {max_num_tokens} fit")
        return encoding.ids

    def _check_parts(self, text: str, max_num_tokens: int) -> None:
        """Raises ``ValueError`` as soon as the text's parts have more tokens than may be."""
        num_tokens = 0
        for start in range(0, len(text), _PART_LEN):
            part = text[start : start + _PART_LEN]
            num_tokens += len(self._tokenizer.encode_batch_fast([part], add_special_tokens=False)[0])
            num_tokens -= _NUM_TOKENS_AT_CUT
            if num_tokens > max_num_tokens:
                raise ValueError(f"has more than {num_tokens} tokens; at most {max_num_tokens} fit")


def _read(tokenizer_json: bytes) -> tuple[tokenizers.Tokenizer, Mapping[str, object]]:
    """The tokenizer, and what tokenizer.json says of its decoder."""
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
    except Exception as error:
        raise ValueError(f"tokenizer.json is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if isinstance(tokenizer.model, tokenizers.models.BPE):
        # Meant for training: a text would have other tokens each time.
        tokenizer.model.dropout = None
    content = json.loads(tokenizer_json)
    decoder = content.get("decoder") or {}
    if _writes_bytes(content) and "ByteLevel" not in kinds_of(decoder):
        # Saved with another kind's decoder, or none: it would show characters that stand for bytes ("\u0120" for a space).
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        decoder = {"type": "ByteLevel"}
    return tokenizer, decoder


def _writes_bytes(content: Mapping[str, Any]) -> bool:
    """Whether texts become characters that stand for bytes before they are divided into tokens."""
    parts = (content.get("pre_tokenizer"), content.get("normalizer"))
    return any("ByteLevel" in kinds_of(part) for part in parts if part)


def _vocab_sha256(vocab: Mapping[str, int]) -> str:
    """SHA-256 of all tokens with their ids: equal for models that mean the same by every id, however their files are written."""
    lines = (f"{token_id}\t{token}\n" for token_id, token in sorted((i, token) for token, i in vocab.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
