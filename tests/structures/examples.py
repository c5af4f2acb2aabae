"""What outputs may have to look like, at random, and a vocabulary for the tiny model to write them in."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema_rs
import tokenizers

from specgrove.structures.structured_output import ANY_JSON_OBJECT, StructuredOutput, StructureKind
from specgrove.tokenizer import Tokenizer
from tests.conftest import TINY_VOCAB_SIZE

EOS = 2
_WORDS = ("true", "false", "null", '{"', '":', '",', '"}', "ab", "abc", "10", "[]")


def tiny_vocabulary() -> Tokenizer:
    """Of the tiny model: three special tokens, what JSON is made of, and tokens that are several characters of it."""
    characters = [chr(code) for code in range(33, 127) if chr(code) not in "^`~|@#$%&?;"]
    alphabet = ["\u0120", *characters, *_WORDS]  # written so, a space
    pieces = ["<pad>", "<bos>", "<eos>", *alphabet][:TINY_VOCAB_SIZE]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(pieces[:3])
    return Tokenizer(tokenizer.to_str().encode(), {"eos_token": "<eos>"}, None)


def schema(value: dict[str, Any]) -> StructuredOutput:
    return StructuredOutput(StructureKind.JSON_SCHEMA, (json.dumps(value),))


def regex(text: str) -> StructuredOutput:
    return StructuredOutput(StructureKind.REGEX, (text,))


def choice(*texts: str) -> StructuredOutput:
    return StructuredOutput(StructureKind.CHOICE, texts)


def grammar(text: str) -> StructuredOutput:
    return StructuredOutput(StructureKind.GRAMMAR, (text,))


def random_schema(rng: random.Random, depth: int = 2) -> dict[str, Any]:
    """Of values that are short, so that random models come to their end."""
    kinds: list[dict[str, Any]] = [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": rng.randrange(-20, 0), "maximum": rng.randrange(1, 200)},
        {"type": "string", "maxLength": rng.randrange(1, 6)},
        {"type": "string", "pattern": "^[ab]{1,3}(c|d)$"},
        {"enum": ["red", 3, None, "a b"]},
        {"const": {"a": [1, "x"]}},
    ]
    if depth == 0:
        return rng.choice(kinds)
    names = rng.sample(["a", "ab", "name", "id"], rng.randrange(1, 4))
    properties = {name: random_schema(rng, depth - 1) for name in names}
    required = [name for name in names if rng.random() < 0.7]
    is_object = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    is_array = {"type": "array", "items": random_schema(rng, depth - 1), "maxItems": rng.randrange(1, 3)}
    either = {"anyOf": [random_schema(rng, depth - 1), random_schema(rng, 0)]}
    return rng.choice([is_object, is_object, is_array, either])


def random_structure(rng: random.Random) -> StructuredOutput:
    others = [
        ANY_JSON_OBJECT,
        regex(r"[a-c]{2,6}(-\d{1,3}){0,2}"),
        choice("yes", "no", "yesterday", "a/b.c", "no way"),
        grammar('start: sum\nsum: term ("+" term){0,3}\nterm: /[0-9]{1,3}/ | "(" sum ")"\n'),
        grammar('root ::= item ("," item)? \nitem ::= [a-z] [0-9]+\n'),
    ]
    return schema(random_schema(rng)) if rng.random() < 0.6 else rng.choice(others)


def fits(structure: StructuredOutput, text: str) -> bool:
    """Whether a whole text is one of the structure's, by other libraries' word."""
    match structure.kind:
        case StructureKind.JSON_SCHEMA:
            return bool(jsonschema_rs.is_valid(json.loads(structure.text), json.loads(text)))
        case StructureKind.REGEX:
            return re.fullmatch(structure.text, text) is not None
        case StructureKind.CHOICE:
            return text in structure.texts
        case StructureKind.GRAMMAR:
            written = r"[a-z]\d+(,[a-z]\d+)?" if "item" in structure.text else r"[0-9+()]+"
            return re.fullmatch(written, text) is not None
