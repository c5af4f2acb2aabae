"""The toy model's language: bytes, its tokenizer, and a next token that is a hash of the prefix, so that every output is known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import tokenizers

# 256 bytes and the end-of-sequence token.
VOCAB_SIZE = 257
EOS = 256

NextToken = Callable[[Sequence[int], int], int]


def toy_next(prefix: Sequence[int], seed: int) -> int:
    """The toy model: a printable ASCII byte, by the last 8 tokens, the length and the seed."""
    text = f"{seed}:{len(prefix)}:{list(prefix[-8:])}"
    return 32 + int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") % 95


def toy_output(prompt: Sequence[int], num_tokens: int, seed: int = 0, next_token: NextToken = toy_next) -> list[int]:
    """What any correct decoding gives."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens, seed))
    return tokens[len(prompt) :]


def speech(text: str, prompt: str) -> NextToken:
    """A model that says ``text`` and ends. Behind its end, where a tree may be that was drafted at random, it ends again."""
    tokens, start = (*text.encode(), EOS), len(prompt.encode())
    return lambda prefix, seed: tokens[min(len(prefix) - start, len(tokens) - 1)]


def toy_tokenizer_json() -> bytes:
    """A byte-level tokenizer without merges: ids 0 to 255 are the bytes, in order."""
    alphabet = _byte_characters()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(["<eos>"])
    return tokenizer.to_str().encode()


def _byte_characters() -> list[str]:
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) if byte in printable else chr(256 + others.index(byte)) for byte in range(256)]


CHAT_TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
