"""Values of JSON files: whatever is wrong is told with the file, the key and what would be right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specgrove.files.json_files import JsonFileError, JsonObject, is_lfs_pointer, read_json_object, read_json_texts

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS_POINTER.encode(), "Git LFS pointer.*git lfs pull"),
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff\xfe{", "no text in UTF-8"),
        (b"[1]", r"holds a list, it should hold a JSON object"),
        (b"null", "holds null"),
        (b'"a"', "holds text"),
    ],
)
def test_files_that_are_no_object_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(JsonFileError, match=message) as raised:
        read_json_object(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_is_read_once(tmp_path: Path) -> None:
    """It may be a pipe: ``--prompts <(jq ...)``."""
    reading, writing = os.pipe()
    os.write(writing, b'["one"]')
    os.close(writing)
    assert read_json_texts(Path(f"/dev/fd/{reading}")) == ("one",)
    os.close(reading)


def test_a_byte_order_mark_is_no_harm(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": 1}', encoding="utf-8-sig")
    assert dict(read_json_object(tmp_path / "config.json")) == {"a": 1}
    assert not is_lfs_pointer(tmp_path / "config.json")
    assert not is_lfs_pointer(tmp_path / "nothing")


VALUES = JsonObject(
    {"text": "8", "list": [1, "2"], "yes": True, "half": 0.5, "two": 2.0, "null": None, "ids": [1, 2], "nan": float("nan"), "no": -1,
     "huge": 10**400},
    "F/config.json",
)  # fmt: skip


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda o: o.integer("text"), r'text is "8", it should be a whole number'),
        (lambda o: o.integer("half"), r"half is 0.5, it should be a whole number"),
        (lambda o: o.integer("yes"), r"yes is true, it should be a whole number"),
        (lambda o: o.integer("gone"), r"gone is missing, it should be a whole number"),
        (lambda o: o.integer("null"), r"null is null, it should be a whole number"),
        (lambda o: o.size("no"), r"no is -1, it should be a whole number of at least 1"),
        (lambda o: o.number("text"), r'text is "8", it should be a number'),
        (lambda o: o.number("nan"), r"nan is NaN, it should be a number"),
        (lambda o: o.number("huge"), r"huge is 1000.*, it should be a number"),
        (lambda o: o.size("huge"), r"huge is 1000.*, it should be at most 2147483647"),
        (lambda o: o.flag("text", True), r'text is "8", it should be true or false'),
        (lambda o: o.text("half"), r"half is 0.5, it should be text"),
        (lambda o: o.object("list"), r"list is \[1, \"2\"\], it should be an object"),
        (lambda o: o.texts("list"), r"it should be a list of texts"),
        (lambda o: o.token_ids("list"), r"it should be a token id"),
        (lambda o: o.token_ids("text"), r"it should be a token id"),
    ],
)
def test_wrong_values_are_named_with_the_file(read: object, message: str) -> None:
    with pytest.raises(JsonFileError, match=r"^F/config\.json: .*" + message):
        read(VALUES)  # type: ignore[operator]


def test_right_values_are_given() -> None:
    assert VALUES.integer("two") == 2
    assert VALUES.integer("null", 3) == 3
    assert VALUES.number("half") == 0.5
    assert VALUES.flag("yes", False) is True
    assert VALUES.token_ids("ids") == (1, 2)
    assert VALUES.token_ids("gone") == ()
    assert VALUES.object("gone") == {}
