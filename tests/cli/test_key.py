"""``specgrove key``: what it prints is what the router reads, and the key is what clients send."""

from __future__ import annotations

from pathlib import Path

import pytest

from specgrove.cli import main
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.key_file import first_key, read_key_file


def test_a_key_its_line_and_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--max-requests", "3", "--tokens-per-minute", "500", "--key-file", str(tmp_path / "alice.key")]
    assert main(["key", "alice", *flags]) == 0
    printed = capsys.readouterr()
    (tmp_path / "keys").write_text(printed.out)
    (key,) = read_key_file(tmp_path / "keys")
    assert (key.name, key.max_num_requests, key.tokens_per_minute, key.is_clear) == ("alice", 3, 500, False)
    text = first_key(tmp_path / "alice.key")
    assert ApiKeys.in_file(tmp_path / "keys").key_of(f"Bearer {text}") == key
    assert text not in printed.out + printed.err
    assert (tmp_path / "alice.key").stat().st_mode & 0o777 == 0o600
    # A file that somebody has is not written over.
    assert main(["key", "alice", *flags]) == 1
    assert first_key(tmp_path / "alice.key") == text


def test_without_a_file_the_key_is_shown_beside_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "bob"]) == 0
    printed = capsys.readouterr()
    (tmp_path / "keys").write_text(printed.out)
    text = printed.err.strip().rpartition(" ")[2]
    assert ApiKeys.in_file(tmp_path / "keys").key_of(f"Bearer {text}").name == "bob"


def test_a_file_of_keys_in_clear_gets_hashes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys").write_text("# ours\na-key-of-more-than-20-characters\n")
    assert main(["key", "--hash", str(tmp_path / "keys")]) == 0
    (tmp_path / "hashed").write_text(capsys.readouterr().out)
    assert (tmp_path / "hashed").read_text().startswith("# ours\nline-2 sha256:")
    assert ApiKeys.in_file(tmp_path / "hashed").key_of("Bearer a-key-of-more-than-20-characters")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the new key a NAME"),
        (["a b"], "a key's name must be"),
        (["alice", "--hash", "x"], "--hash FILE is given alone"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", *arguments]) == 1
    assert said in capsys.readouterr().err
