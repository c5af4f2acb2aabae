"""The tokenizer files of a GGUF file, from its metadata: tokenizer.json, tokenizer_config.json and the chat template.

Called by ``specgrove.models.folders.gguf_model``. Imports neither torch nor transformers. Invariant: text gets the ids that the model was
trained with; a file that doesn't say enough for that is refused, or the doubt is put in words (``TokenizerFiles.warnings``). What
llama.cpp knows without being told by the file is from https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from specgrove.models.errors import UnsupportedModelError
from specgrove.models.folders.gguf_pre_tokenizers import PreTokenizer, pre_tokenizer_of
from specgrove.models.weights.gguf_file import GgufFile
from specgrove.tokenizer.files import TEMPLATE_FILES

_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 2, 3, 4, 5, 6
_ID_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_SPACE = "\u2581"  # sentencepiece writes spaces so
# Tokens that end a text or a turn, for files that name only one of them.
_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "<|EOT|>",
    "<EOT>", "</s>", "<eos>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """Contents of the files. ``warnings`` are for people: in what the ids may differ from the model's."""

    tokenizer: Mapping[str, Any]
    config: Mapping[str, Any]
    chat_templates: Mapping[str, str]
    """By the files that hold them."""
    warnings: tuple[str, ...]


def special_ids(file: GgufFile) -> dict[str, Any]:
    """``bos_token_id``, ``eos_token_id`` (one or several) and ``pad_token_id``, as the file names them."""
    ends = (_id(file, name) for name in ("eos", "eot", "eom"))  # of a sequence, a turn, a message
    eos_ids = list(dict.fromkeys(token_id for token_id in ends if token_id is not None))
    return {
        "bos_token_id": _id(file, "bos"),
        "eos_token_id": eos_ids[0] if len(eos_ids) == 1 else eos_ids or None,
        "pad_token_id": _id(file, "padding"),
    }


def end_ids(file: GgufFile) -> list[int]:
    """All tokens that end an output: those the file names, and tokens apart from text whose own text says so."""
    named = special_ids(file)["eos_token_id"]
    ids = named if isinstance(named, list) else [] if named is None else [named]
    tokens, kinds = _tokens(file), _kinds(file)
    apart = (_CONTROL, _USER_DEFINED)
    known = (token_id for token_id, token in enumerate(tokens) if token in _ENDS and kinds[token_id] in apart)
    return list(dict.fromkeys([*ids, *known]))


def tokenizer_of(file: GgufFile) -> TokenizerFiles:
    """Raises ``UnsupportedModelError`` for a tokenizer whose ids can't be had from the file."""
    if "tokenizer.ggml.model" not in file.metadata or not _tokens(file):
        raise UnsupportedModelError(f"{file.path} has no tokenizer in its metadata")
    model = file.metadata.text("tokenizer.ggml.model")
    if "tokenizer.huggingface.json" in file.metadata:
        return TokenizerFiles(_own_tokenizer(file), _config(file, adds_bos=False), _templates(file), ())
    if model == "gpt2":
        is_named = "tokenizer.ggml.pre" in file.metadata
        name = file.metadata.text("tokenizer.ggml.pre") if is_named else None
        pre_tokenizer, warnings = pre_tokenizer_of(name, file.path)
        tokenizer, adds_bos = _byte_level(file, pre_tokenizer), pre_tokenizer.adds_bos
    elif model == "llama":
        tokenizer, adds_bos, warnings = _sentencepiece(file), True, ()
    else:
        raise UnsupportedModelError(
            f"{file.path}: its tokenizer is of the kind {model!r}, which is not supported, only 'gpt2' (byte-level BPE) and "
            "'llama' (sentencepiece BPE): put the model's own config.json and tokenizer.json beside it in a folder of its own"
        )
    adds_bos = file.metadata.flag("tokenizer.ggml.add_bos_token", default=adds_bos)
    tokenizer["post_processor"] = _template_processing(file, adds_bos)
    return TokenizerFiles(tokenizer, _config(file, adds_bos), _templates(file), (*warnings, *_doubts(file)))


def _own_tokenizer(file: GgufFile) -> dict[str, Any]:
    """The model's own tokenizer.json, which a file may have in its metadata."""
    try:
        content = json.loads(file.metadata.text("tokenizer.huggingface.json"))
    except ValueError as error:
        raise UnsupportedModelError(f"{file.path}: tokenizer.huggingface.json is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise file.metadata.error("tokenizer.huggingface.json", "a JSON object")
    return content


def _doubts(file: GgufFile) -> Iterator[str]:
    """What is odd about the tokens, though texts can be read and written."""
    tokens = _tokens(file)
    first_id: dict[str, int] = {}
    twice = [token_id for token_id, token in enumerate(tokens) if first_id.setdefault(token, token_id) != token_id]
    if twice:
        yield (
            f"{file.path.name} has {len(twice)} tokens whose text another one has, {tokens[twice[0]]!r} for one: only the last of "
            "them is read and written"
        )
    for name in _ID_NAMES:
        key = f"tokenizer.ggml.{name}_token_id"
        if key in file.metadata and file.metadata.integer(key) >= len(tokens):
            yield f"{file.path.name}: {key} is {file.metadata.integer(key)}, but there are {len(tokens)} tokens: it is left out"


def _byte_level(file: GgufFile, pre_tokenizer: PreTokenizer) -> dict[str, Any]:
    if "tokenizer.ggml.merges" not in file.metadata:
        raise UnsupportedModelError(f"{file.path} lacks tokenizer.ggml.merges in its metadata")
    vocab, kinds = dict(_vocab(file)), _kinds(file)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocab, kinds),
        "normalizer": pre_tokenizer.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre_tokenizer.steps)},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": _stored_merges(file, vocab),
            "unk_token": None,
            "byte_fallback": False,
            "ignore_merges": pre_tokenizer.ignores_merges,
        },
    }


def _sentencepiece(file: GgufFile) -> dict[str, Any]:
    is_gemma = file.metadata.text("general.architecture", "").startswith("gemma")
    vocab, kinds = dict(_vocab(file)), _kinds(file)
    if is_gemma:  # its runs of spaces are written as such in the file
        vocab = {_SPACE * len(token) if token.strip(" ") == "" else token: i for token, i in vocab.items()}
    adds_space = file.metadata.flag("tokenizer.ggml.add_space_prefix", default=not is_gemma)
    unknown_id = _id(file, "unknown")
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prefix = [{"type": "Prepend", "prepend": _SPACE}] if adds_space else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_space else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(vocab, kinds),
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": _merges_of(file, vocab, by_id=is_gemma),
            "unk_token": None if unknown_id is None else _tokens(file)[unknown_id],
            "fuse_unk": True,
            "byte_fallback": any(kind == _BYTE for kind in kinds),
            "ignore_merges": False,
        },
    }


def _merges_of(file: GgufFile, vocab: Mapping[str, int], *, by_id: bool) -> list[list[str]]:
    """Pairs whose texts together are a token, in the order of the tokens' scores: sentencepiece stores no merges.

    ``by_id``: in the order of ids, which is that of merging for Gemma, whose scores are not.
    """
    if "tokenizer.ggml.merges" in file.metadata:
        return _stored_merges(file, vocab)
    scores = file.metadata.numbers("tokenizer.ggml.scores")
    if len(scores) < len(_tokens(file)):
        raise UnsupportedModelError(f"{file.path} lacks tokenizer.ggml.scores in its metadata")
    ranked = sorted(vocab.items(), key=lambda item: item[1] if by_id else -scores[item[1]])
    merges = []
    for token, _ in ranked:
        pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        known = [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
        merges += [list(pair) for pair in sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    return merges


def _stored_merges(file: GgufFile, vocab: Mapping[str, int]) -> list[list[str]]:
    """Raises ``UnsupportedModelError`` for what is no pair of tokens that make a token."""
    merges = [merge.split(" ", 1) for merge in file.metadata.texts("tokenizer.ggml.merges")]
    for merge in merges:
        if len(merge) != 2 or not {*merge, "".join(merge)} <= vocab.keys():
            raise UnsupportedModelError(
                f"{file.path} is broken: tokenizer.ggml.merges has {' '.join(merge)!r}, it should be two tokens, with a space between "
                "them, that make a third"
            )
    return merges


def _added_tokens(vocab: Mapping[str, int], kinds: Sequence[int]) -> list[dict[str, Any]]:
    """Tokens that are found in text before it is divided. Those of control are special: they are not shown."""
    return [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kinds[token_id] != _USER_DEFINED,
        }
        for token, token_id in vocab.items()
        if kinds[token_id] in (_UNKNOWN, _CONTROL, _USER_DEFINED)
    ]


def _template_processing(file: GgufFile, adds_bos: bool) -> dict[str, Any] | None:
    """What is put around a text that is no chat; None for nothing."""
    bos_id, eos_id = _id(file, "bos"), _id(file, "eos")
    adds_eos = file.metadata.flag("tokenizer.ggml.add_eos_token", default=False)
    before = [bos_id] if adds_bos and bos_id is not None else []
    after = [eos_id] if adds_eos and eos_id is not None else []
    if not before and not after:
        return None
    tokens = _tokens(file)

    def pieces(sequence: str) -> list[dict[str, Any]]:
        type_id = 0 if sequence == "A" else 1
        special = lambda token_id: {"SpecialToken": {"id": tokens[token_id], "type_id": type_id}}  # noqa: E731
        text = {"Sequence": {"id": sequence, "type_id": type_id}}
        return [*map(special, before), text, *map(special, after)]

    added = {
        tokens[token_id]: {"id": tokens[token_id], "ids": [token_id], "tokens": [tokens[token_id]]}
        for token_id in (*before, *after)
    }
    return {
        "type": "TemplateProcessing",
        "single": pieces("A"),
        "pair": [*pieces("A"), *pieces("B")],
        "special_tokens": added,
    }


def _config(file: GgufFile, adds_bos: bool) -> dict[str, Any]:
    """tokenizer_config.json."""
    tokens = _tokens(file)
    ids = {config_name: _id(file, name) for name, config_name in _ID_NAMES.items()}
    architecture = file.metadata.text("general.architecture", "")
    return {
        **{name: tokens[token_id] for name, token_id in ids.items() if token_id is not None},
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": file.metadata.integer(f"{architecture}.context_length", 0) or None,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _templates(file: GgufFile) -> dict[str, str]:
    """Of several that a file has, the usual one and that for conversations with tools."""
    keys = {name: f"tokenizer.chat_template{'' if name == 'default' else f'.{name}'}" for name in TEMPLATE_FILES}
    return {TEMPLATE_FILES[name]: file.metadata.text(key) for name, key in keys.items() if key in file.metadata}


def _vocab(file: GgufFile) -> Iterator[tuple[str, int]]:
    """Without what only fills the embedding up, which the model's own tokenizer doesn't have."""
    kinds = _kinds(file)
    for token_id, token in enumerate(_tokens(file)):
        if not (kinds[token_id] == _UNUSED and token == f"[PAD{token_id}]"):
            yield token, token_id


def _tokens(file: GgufFile) -> Sequence[str]:
    return file.metadata.texts("tokenizer.ggml.tokens")


def _kinds(file: GgufFile) -> Sequence[int]:
    kinds = [int(kind) for kind in file.metadata.numbers("tokenizer.ggml.token_type")]
    num_tokens = len(_tokens(file))
    if not kinds:
        return [1] * num_tokens
    if len(kinds) != num_tokens:
        raise UnsupportedModelError(f"{file.path} has {num_tokens} tokens and {len(kinds)} types of them")
    return kinds


def _id(file: GgufFile, name: str) -> int | None:
    """One of the special tokens; None where the file names none that there is."""
    token_id = file.metadata.integer(f"tokenizer.ggml.{name}_token_id", -1)
    return token_id if 0 <= token_id < len(_tokens(file)) else None
