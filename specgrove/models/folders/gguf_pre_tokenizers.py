"""How byte-level tokenizers divide text before merging, by the name that a GGUF file gives (``tokenizer.ggml.pre``).

Read by ``specgrove.models.folders.gguf_tokenizer``. The file holds the name only; the rules are the models' own tokenizer.json's. A name
that isn't here is refused: a wrong rule gives other ids for digits, line ends or Chinese, and nothing looks wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specgrove.models.errors import UnsupportedModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_ENDS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LEAD = r"[^\r\n\p{L}\p{N}]?"

_QWEN2 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_ENDS}"
_LLAMA3 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_ENDS}"
_TEKKEN = rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*|\p{{N}}|{_CASED_ENDS}"
_GPT_4O = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_CASED_ENDS}"
)


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """Parts of a tokenizer.json, and what llama.cpp takes for granted with this name."""

    steps: tuple[Mapping[str, Any], ...]
    normalizer: Mapping[str, Any] | None = None
    ignores_merges: bool = False
    """A piece that is a token is that token, even if no merges lead there."""
    adds_bos: bool = False
    """Where the file doesn't say."""


def _byte_level(use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_DIGITS = {"type": "Digits", "individual_digits": True}
_GPT2 = PreTokenizer((_byte_level(use_regex=True),))
_DIGITS_AND_GPT2 = PreTokenizer((_DIGITS, _byte_level(use_regex=True)))
_DEEPSEEK_CODER = PreTokenizer(
    (
        _split("[\r\n]"),
        _split(r"\s?\p{L}+"),
        _split(r"\s?\p{P}+"),
        _split("[一-龥ࠀ-一가-퟿]+"),
        _DIGITS,
        _byte_level(use_regex=False),
    )
)
_QWEN = PreTokenizer((_split(_QWEN2), _byte_level(use_regex=False)), normalizer={"type": "NFC"})
_LLAMA = PreTokenizer((_split(_LLAMA3), _byte_level(use_regex=False)), ignores_merges=True, adds_bos=True)
_MISTRAL = PreTokenizer((_split(_TEKKEN), _byte_level(use_regex=False)), ignores_merges=True, adds_bos=True)
_BY_NAME: Mapping[str, PreTokenizer] = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"), _LLAMA),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "megrez"), _QWEN),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), _DIGITS_AND_GPT2),
    "gpt-2": _GPT2,
    "tekken": _MISTRAL,
    "gpt-4o": PreTokenizer((_split(_GPT_4O), _byte_level(use_regex=False))),
    "deepseek-coder": _DEEPSEEK_CODER,
}
NAMES = tuple(_BY_NAME)


def pre_tokenizer_of(name: str | None, path: Path) -> tuple[PreTokenizer, tuple[str, ...]]:
    """With a warning where the file doesn't say. Raises ``UnsupportedModelError`` for names that aren't known."""
    if name is None or name == "default":
        stated = "doesn't say" if name is None else "says only 'default' for"
        warning = (
            f"{path.name} {stated} how its tokenizer divides text (tokenizer.ggml.pre): GPT-2's way is taken, and ids may "
            "differ from the model's; put the model's own config.json and tokenizer.json beside it in a folder of its own"
        )
        return _GPT2, (warning,)
    if name not in _BY_NAME:
        raise UnsupportedModelError(
            f"{path}: its tokenizer divides text as {name!r} (tokenizer.ggml.pre), which is not known, only {', '.join(NAMES)} "
            "are: put the model's own config.json and tokenizer.json beside it in a folder of its own"
        )
    return _BY_NAME[name], ()
