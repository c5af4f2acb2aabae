"""Small tokenizers of all the shapes that models' tokenizers have, made here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from specgrove.tokenizer import Tokenizer

TEXTS = ["the quick brown fox", "jumps over the lazy dog. ", "naïve café 中文字符 😀 ", "def f(x):\n    return x\n"] * 5
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}\n"
    "    {% if m['role'] not in ['user', 'assistant'] %}{{ raise_exception('unknown role ' + m['role']) }}{% endif %}\n"
    "[{{ m['role'] }}] {{ m['content'] | trim }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
PIECES = ["▁", "▁the", "the", "a", "b", "é", "▁▁", "q", "ui", "ck", "�", "▁a", "木", "\n"]


def of_backend(tokenizer: tokenizers.Tokenizer, changes: Mapping[str, Any] | None = None) -> Tokenizer:
    """``changes`` replace parts of tokenizer.json."""
    content = json.loads(tokenizer.to_str()) | dict(changes or {})
    return Tokenizer(json.dumps(content).encode(), {}, None)


def byte_level_backend() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    return tokenizer


def byte_level() -> Tokenizer:
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    return Tokenizer(byte_level_backend().to_str().encode(), config, CHAT_TEMPLATE)


def byte_level_with_added_tokens() -> Tokenizer:
    """Not special: among them some that are written with characters that stand for bytes, or with spaces."""
    tokenizer = byte_level_backend()
    tokenizer.add_tokens(["<think>", "é", "two words", "木", AddedToken("<pad>", lstrip=True, rstrip=True)])
    return of_backend(tokenizer)


def byte_level_in_a_sequence() -> Tokenizer:
    tokenizer = byte_level_backend()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])
    return of_backend(tokenizer)


def byte_fallback_backend(vocab: Mapping[str, int] | None = None) -> tokenizers.Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]
    vocab = {piece: index for index, piece in enumerate(pieces)} if vocab is None else vocab
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=dict(vocab), merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def byte_fallback(*, strips: bool = True) -> Tokenizer:
    """As Llama 2 with ``strips``, else as Gemma."""
    tokenizer = byte_fallback_backend()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if strips:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        parts.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(parts)
    return of_backend(tokenizer)


def byte_fallback_with_holes() -> Tokenizer:
    """Ids that no token has, an empty token, and added ones that are not special."""
    pieces = ["<unk>", "<s>", "</s>", "", "▁", "▁b", "b", "<0x20>", "<0xE6>", "<0x9C>", "<0xA8>"]
    tokenizer = byte_fallback_backend({piece: 3 * index for index, piece in enumerate(pieces)})
    tokenizer.add_tokens(["<|im_end|>", " spaced "])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return of_backend(tokenizer)


def metaspace(scheme: str) -> Tokenizer:
    vocab = {piece: index for index, piece in enumerate(["<unk>", "<s>", "</s>", *PIECES])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return of_backend(tokenizer)


def word_pieces() -> Tokenizer:
    vocab = {
        piece: index for index, piece in enumerate(["[UNK]", "the", "##s", "dog", ".", ",", "n", "'", "##木", "t"])
    }
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[UNK]"])
    return of_backend(tokenizer)


def words_with_suffix() -> Tokenizer:
    vocab = {piece: index for index, piece in enumerate(["<unk>", "the</w>", "do", "g</w>", "a", "</w>"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder()
    return of_backend(tokenizer)


def without_decoder() -> Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"<unk>": 0, "the": 1, "dog": 2, "": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return of_backend(tokenizer, {"decoder": None})


SHAPES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "byte_level_with_added_tokens": byte_level_with_added_tokens,
    "byte_level_in_a_sequence": byte_level_in_a_sequence,
    "byte_fallback": byte_fallback,
    "byte_fallback_that_keeps_spaces": lambda: byte_fallback(strips=False),
    "byte_fallback_with_holes": byte_fallback_with_holes,
    "metaspace_always": lambda: metaspace("always"),
    "metaspace_first": lambda: metaspace("first"),
    "metaspace_never": lambda: metaspace("never"),
    "word_pieces": word_pieces,
    "words_with_suffix": words_with_suffix,
    "without_decoder": without_decoder,
}
TOKENIZERS = {name: make() for name, make in SHAPES.items()}
