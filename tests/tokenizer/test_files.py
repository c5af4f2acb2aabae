"""Broken tokenizer files are named, with the key and what would be right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specgrove.models.folders.made_folder import copy_other_files
from specgrove.tokenizer import TOKENIZER_FILE_NAMES, Tokenizer
from tests.tokenizer.shapes import byte_level_backend

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7031645\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.json").write_text(byte_level_backend().to_str())
    return tmp_path


def error_of(folder: Path) -> str:
    with pytest.raises((ValueError, OSError)) as info:
        Tokenizer.from_folder(folder)
    assert str(folder) in str(info.value)
    return str(info.value)


@pytest.mark.parametrize("name", TOKENIZER_FILE_NAMES)
def test_a_pointer_to_a_large_file_is_none(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(POINTER)
    assert f"{name} is a Git LFS pointer" in error_of(folder)


@pytest.mark.parametrize("name", TOKENIZER_FILE_NAMES)
def test_no_text_at_all(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\xff\xfe\x00{")
    assert name in error_of(folder)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
)
@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_no_json_object(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    assert name in error_of(folder)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("tokenizer_config.json", {"bos_token": 5}, "bos_token is 5, it should be a token: text, or an object with"),
        ("tokenizer_config.json", {"eos_token": {"lstrip": True}}, "eos_token: content is missing, it should be text"),
        ("tokenizer_config.json", {"eos_token": {"content": 7}}, "eos_token: content is 7, it should be text"),
        ("tokenizer_config.json", {"chat_template": 5}, "chat_template is 5, it should be a template, or a list"),
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, "chat_template: template is missing"),
        ("tokenizer_config.json", {"added_tokens_decoder": []}, "added_tokens_decoder is [], it should be an object"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"a": {"content": "b"}}}, "token ids, not 'a'"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"1": 2}},
            "added_tokens_decoder: 1 is 2, it should be a tok",
        ),
        (
            "tokenizer_config.json",
            {"additional_special_tokens": 3},
            "additional_special_tokens is 3, it should be a list",
        ),
        ("tokenizer_config.json", {"split_special_tokens": "x"}, 'split_special_tokens is "x", it should be true or'),
        (
            "special_tokens_map.json",
            {"bos_token": []},
            "special_tokens_map.json: bos_token is [], it should be a token",
        ),
        ("added_tokens.json", {"<x>": "y"}, 'added_tokens.json: <x> is "y", it should be a whole number'),
    ],
)
def test_a_value_of_the_wrong_type_is_named(folder: Path, name: str, content: object, told: str) -> None:
    (folder / name).write_text(json.dumps(content))
    assert told in error_of(folder)


def test_a_copied_folder_has_all_files(folder: Path, tmp_path: Path) -> None:
    for name in TOKENIZER_FILE_NAMES[1:]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    target = tmp_path / "copy"
    target.mkdir()
    copy_other_files(folder, target)
    assert all((target / name).is_file() for name in TOKENIZER_FILE_NAMES)


def test_nothing_but_the_tokenizer_is_needed(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"
    assert not tokenizer.has_chat_template
    assert tokenizer.chat_template_defect is None


def test_an_empty_template_is_none(folder: Path) -> None:
    """It made every conversation an empty text."""
    (folder / "chat_template.jinja").write_text(" \n")
    assert not Tokenizer.from_folder(folder).has_chat_template
    (folder / "chat_template.json").write_text('{"chat_template": "{{ messages[0].content }}!"}')
    assert Tokenizer.from_folder(folder).render_chat([("user", "a")]) == "a!"
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    assert Tokenizer.from_folder(folder).render_chat([("user", "a")]) == "a"
