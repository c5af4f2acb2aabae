"""Reads the tokenizer's files of a model folder. Used by ``Tokenizer.from_folder``.

Invariant: whatever is wrong with a file, a ``ValueError`` or ``OSError`` names it, and the key where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specgrove.files.json_files import JsonFileError, JsonObject, is_lfs_pointer, lfs_remedy, read_json_object
from specgrove.tokenizer.special_tokens import DeclaredTokens, declared_tokens

_CONFIG_FILE = "tokenizer_config.json"
TEMPLATE_FOLDER = "additional_chat_templates"
TEMPLATE_FILES = {"default": "chat_template.jinja", "tool_use": f"{TEMPLATE_FOLDER}/tool_use.jinja"}
_PROCESSOR_TEMPLATE_FILE = "chat_template.json"  # of models published with a processor
TOKENIZER_FILE_NAMES = (
    "tokenizer.json", _CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", _PROCESSOR_TEMPLATE_FILE, *TEMPLATE_FILES.values(),
)  # fmt: skip
"""All that a tokenizer is made of, relative to its folder. Only the first must be there."""


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the files of a folder say."""

    tokenizer_json: bytes
    config: JsonObject
    tokens: DeclaredTokens
    templates: Mapping[str, str]


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Raises ``OSError`` and ``ValueError``."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"no tokenizer.json in {folder}")
    config = _read_if_there(folder / _CONFIG_FILE) or JsonObject({}, str(folder / _CONFIG_FILE))
    tokens = declared_tokens(
        config, _read_if_there(folder / "special_tokens_map.json"), _read_if_there(folder / "added_tokens.json")
    )
    if is_lfs_pointer(path):
        raise JsonFileError(lfs_remedy(path))
    return TokenizerFiles(path.read_bytes(), config, tokens, _templates(folder, config))


def templates_of(config: JsonObject) -> dict[str, str]:
    """The chat templates of tokenizer_config.json by name: it holds one, or a list of named ones."""
    value = config.get("chat_template")
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    right = "a template, or a list of objects with name and template"
    if isinstance(value, Mapping):
        return {name: config.object("chat_template").text(name) for name in value}
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise config.error("chat_template", right)
    entries = [JsonObject(entry, f"{config.place}: chat_template") for entry in value]
    return {entry.text("name"): entry.text("template") for entry in entries}


def _templates(folder: Path, config: JsonObject) -> dict[str, str]:
    """Files of their own take the place of what the config says."""
    files = {name: folder / file_name for name, file_name in TEMPLATE_FILES.items()}
    if found := _not_blank({name: _read_text(path) for name, path in files.items() if path.is_file()}):
        return found
    if found := _not_blank(templates_of(config)):
        return found
    processor = _read_if_there(folder / _PROCESSOR_TEMPLATE_FILE)
    return {} if processor is None else _not_blank(templates_of(processor))


def _not_blank(templates: Mapping[str, str]) -> dict[str, str]:
    """An empty template is none: it would make every conversation an empty text."""
    return {name: template for name, template in templates.items() if template.strip()}


def _read_if_there(path: Path) -> JsonObject | None:
    return read_json_object(path) if path.is_file() else None


def _read_text(path: Path) -> str:
    if is_lfs_pointer(path):
        raise JsonFileError(lfs_remedy(path))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise JsonFileError(f"{path} is no text in UTF-8 ({error}), it should hold a chat template") from error
