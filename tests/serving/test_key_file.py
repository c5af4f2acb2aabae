"""What a file of API keys may hold, and that nothing tells its keys."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from specgrove.errors import UnauthorizedError
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.key_file import ApiKey, check_name, first_key, hash_of, hashed_lines, new_key, read_key_file

_HASH = f"sha256:{hash_of('a-key').hex()}"


def _file(folder: Path, *lines: str) -> Path:
    path = folder / "keys"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_line_has_a_name_a_hash_and_limits(tmp_path: Path) -> None:
    lines = (
        "# who may ask",
        "",
        f"alice {_HASH} max-requests=4 tokens-per-minute=20000",
        f" bob@x.org  {_HASH.upper()[:7].lower()}{_HASH[7:].upper()}",
    )
    assert read_key_file(_file(tmp_path, *lines)) == (
        ApiKey("alice", hash_of("a-key"), 4, 20000), ApiKey("bob@x.org", hash_of("a-key")),
    )  # fmt: skip
    keys = ApiKeys.in_file(tmp_path / "keys")
    assert keys.key_of("Bearer a-key").name == "bob@x.org"
    with pytest.raises(UnauthorizedError, match="none that is known"):
        keys.key_of(f"Bearer {_HASH}")


def test_the_line_of_a_key_is_read_back(tmp_path: Path) -> None:
    keys = [ApiKey("a", hash_of("x"), 1, None), ApiKey("b", hash_of("y"), None, 2), ApiKey("c", hash_of("z"), 3, 4)]
    assert read_key_file(_file(tmp_path, *(key.line for key in keys))) == tuple(keys)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("two words", "line 1: must be NAME sha256:HASH"),
        (_HASH, "line 1: must be NAME sha256:HASH"),
        (f"alice {_HASH[:-1]}", "line 1: must be NAME sha256:HASH"),
        (f"al/ice {_HASH}", "line 1: must be NAME sha256:HASH"),
        (f"specgrove-{'x' * 43} {_HASH}", "line 1: begins with a key; it must begin with the NAME of who has the key"),
        (f"alice {_HASH} max-request=3", "line 1: what follows a hash must be max-requests=N or tokens-per-minute=N"),
        (f"alice {_HASH} max-requests=0", "line 1: max-requests must be a whole number, 1 or more"),
        (f"alice {_HASH} max-requests=1 max-requests=1", "line 1: max-requests is there twice"),
        ("caf\xe9", "line 1: keys must be printable ASCII characters"),
        ("# none", "holds no key; `specgrove key NAME` makes one"),
    ],
)
def test_what_is_no_file_of_keys_is_told_without_its_content(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ValueError, match="keys") as raised:
        read_key_file(_file(tmp_path, line))
    assert said in str(raised.value)
    assert not any(word in str(raised.value) for word in ("words", "caf", "xxx", _HASH[:20]))


def test_a_key_is_no_name() -> None:
    for given in (new_key(), "a/key+of=another/kind"):
        with pytest.raises(ValueError, match="a key's name must") as raised:
            check_name(given)
        assert given not in str(raised.value)
    with pytest.raises(ValueError, match="got 'al/ice'"):
        check_name("al/ice")


def test_of_many_keys_each_is_found(tmp_path: Path) -> None:
    made = [ApiKey(f"user-{number}", hash_of(f"key-{number}")) for number in range(10_000)]
    keys = ApiKeys.in_file(_file(tmp_path, *(key.line for key in made)))
    for number in (0, 4096, 9_999):
        assert keys.key_of(f"Bearer key-{number}") == keys.named(f"user-{number}") == made[number]
    with pytest.raises(UnauthorizedError, match="none that is known"):
        keys.key_of("Bearer key-10000")


def test_more_keys_than_are_read_in_a_moment_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds 10001 keys; a router takes 10000 at most"):
        read_key_file(_file(tmp_path, *["x"] * 10_001))


def test_what_is_no_text_is_no_file_of_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"keys must be printable ASCII characters$"):
        read_key_file(tmp_path / "keys")
    with pytest.raises(ValueError, match="No such file"):
        read_key_file(tmp_path / "absent")


def test_keys_of_one_name_have_the_same_limits(tmp_path: Path) -> None:
    old, new = ApiKey("alice", hash_of("old"), 2), ApiKey("alice", hash_of("new"), 2)
    assert read_key_file(_file(tmp_path, old.line, new.line)) == (old, new)
    with pytest.raises(ValueError, match="those of 'alice' have different ones"):
        read_key_file(_file(tmp_path, old.line, ApiKey("alice", hash_of("new"), 3).line))


def test_keys_in_clear_are_taken_with_a_warning_and_named_by_their_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _file(tmp_path, "# old", "very-secret-of-old", ApiKey("bob", hash_of("x")).line)
    assert ApiKeys.in_file(path).key_of("Bearer very-secret-of-old").name == "line-2"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"1 of 2 keys are in clear; `specgrove key --hash {path}`" in record.getMessage()
    assert "very-secret" not in caplog.text


def test_a_file_with_hashes_has_the_same_keys(tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    path = _file(tmp_path, "# ours", first, "", ApiKey("bob", hash_of(second), 3).line)
    hashed = _file(tmp_path, *hashed_lines(path))
    assert first not in hashed.read_text()
    assert hashed.read_text().startswith("# ours\nline-2 sha256:")
    keys = ApiKeys.in_file(hashed)
    assert [keys.key_of(f"Bearer {key}").name for key in (first, second)] == ["line-2", "bob"]
    with pytest.raises(ValueError, match="line 1: a key of less than 20 characters"):
        list(hashed_lines(_file(tmp_path, "short")))


def test_clients_send_a_key_that_is_in_clear(tmp_path: Path) -> None:
    assert first_key(_file(tmp_path, "# mine", " the-key ", "another")) == "the-key"
    with pytest.raises(
        ValueError, match=r"line 1: is a key's hash, for a router; a client needs a file with the key itself"
    ):
        first_key(_file(tmp_path, ApiKey("bob", hash_of("x")).line))
    with pytest.raises(ValueError, match="holds no key; write it into the first line"):
        first_key(_file(tmp_path, "# none"))


def test_a_new_key_is_one_that_nobody_guesses() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("specgrove-") and len(key) == 10 + 43 and key.isascii() for key in keys)
    assert "x" * 20 not in repr(ApiKey("a", b"x" * 32))
