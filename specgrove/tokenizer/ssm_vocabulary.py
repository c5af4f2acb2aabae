"""For which token ids a small model was made: told by its tokenizer or its configuration. Read before its weights are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from specgrove.files.json_files import read_json_object
from specgrove.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The LLM's token ids as an SSM knows them. ``token_checksums`` are empty where only ``sha256`` is told."""

    sha256: str = ""
    token_checksums: bytes = b""


def read_vocabulary(folder: Path) -> Vocabulary:
    """That of its tokenizer, or what config.json says under "specgrove". Raises ``ValueError`` where nothing tells."""
    if (folder / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_folder(folder)
        return Vocabulary(tokenizer.vocab_sha256, tokenizer.token_checksums())
    sha256 = read_json_object(folder / "config.json").object("specgrove").text("vocab_sha256", "")
    if not sha256:
        raise ValueError(
            f"{folder} has no tokenizer.json, so nothing tells for which LLM it can draft: "
            "put the tokenizer.json there that the model was trained with"
        )
    return Vocabulary(sha256)
