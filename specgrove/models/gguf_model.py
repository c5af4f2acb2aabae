"""The model folder of a GGUF file: config and tokenizer from its metadata, and a link to the file, in the cache.

Called by ``specgrove.models.hub``, by ``specgrove.models.demo`` for a tokenizer, and by conversion. A second call for the same file
imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from specgrove.models.made_folder import digest_of, edit_json, make_once, whole_folder

# By tokenizer.ggml.pre: what GGUF files only name and the converter of transformers doesn't know.
_PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    },
}


def ensure_gguf_folder(path: Path, cache_dir: Path, progress: Callable[[str], None]) -> Path:
    """Made once in ``cache_dir``. Raises ``ValueError`` for a file that can't be served, ``OSError`` if it isn't there."""
    folder = cache_dir / "gguf" / f"{path.stem}-{digest_of([path])}"

    def make() -> None:
        progress(f"reading the metadata of {path.name}, once")
        with whole_folder(folder) as unfinished:
            write_config_and_tokenizer(path, unfinished, progress)
            (unfinished / "model.gguf").symlink_to(path.absolute())

    return make_once(folder, make, progress)


def write_config_and_tokenizer(path: Path, folder: Path, progress: Callable[[str], None]) -> None:
    """What a model folder needs beside its weights."""
    from specgrove.models.formats.gguf_checkpoint import open_gguf, value_of
    from specgrove.models.formats.gguf_config import config_of_gguf

    reader = open_gguf(path)
    config = config_of_gguf(reader, path)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokens = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "generation_config.json").write_text(json.dumps(tokens, indent=2) + "\n")
    if value_of(reader, "tokenizer.ggml.model", None) is None:
        raise ValueError(f"{path} has no tokenizer in its metadata")
    progress(f"converting the tokenizer of {path.name}")
    pre_tokenizer = value_of(reader, "tokenizer.ggml.pre", "default")
    write_tokenizer(path, folder, str(pre_tokenizer), config["max_position_embeddings"])


def write_tokenizer(path: Path, folder: Path, pre_tokenizer: str, max_model_len: int) -> None:
    """tokenizer.json, tokenizer_config.json and the chat template, through transformers' reader of GGUF."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent.absolute()), gguf_file=path.name)
    tokenizer.save_pretrained(folder)
    if pre_tokenizer in _PRE_TOKENIZERS:
        edit_json(folder / "tokenizer.json", {"pre_tokenizer": _PRE_TOKENIZERS[pre_tokenizer]})
        edit_json(folder / "tokenizer_config.json", {"add_prefix_space": False})
    changes = {"model_max_length": max_model_len, "clean_up_tokenization_spaces": False}
    edit_json(folder / "tokenizer_config.json", changes)
