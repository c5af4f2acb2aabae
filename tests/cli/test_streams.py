"""Commands and the streams they read and write: pipes, closed or full ones, other encodings, and Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.history import InMemoryHistory

from specgrove.cli import generate, main
from specgrove.cli.prompt_input import _kept_questions
from specgrove.client.output import Chunk, OutputToken
from specgrove.serving.key_file import first_key
from tests.cli.program import SPECGROVE, typed
from tests.fake_router import FakeRouter
from tests.waiting import LIMIT_S

ANSWER = "The quick brown fox"
Router = tuple[FakeRouter, str]


def test_generate_reads_standard_input(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from a pipe")))
    assert main(["generate", "-", "--raw", "--address", fake_router[1]]) == 0
    assert fake_router[0].requests[0].text == "from a pipe"


def test_a_byte_order_mark_is_no_part_of_a_text(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Editors and shells of Windows write one before a text."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfhi")))
    assert main(["generate", "-", "--raw", "--address", fake_router[1]]) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffone\n\ufefftwo\n"))
    assert main(["chat", "--address", fake_router[1]]) == 0
    schema, keys = tmp_path / "schema.json", tmp_path / "keys"
    schema.write_bytes(b'\xef\xbb\xbf{"type": "object"}')
    keys.write_bytes(b"\xef\xbb\xbfa-key\n")
    assert main(["generate", "hi", "--json-schema", str(schema), "--address", fake_router[1]]) == 0
    piped, first, second, structured = fake_router[0].requests
    assert (piped.text, first.chat.messages[-1].content) == ("hi", "one")
    assert second.chat.messages[-1].content == "\ufefftwo"  # not at the beginning it is a character
    assert structured.sampling.structured_output.json_schema == '{"type": "object"}'
    assert first_key(keys) == "a-key"


def test_a_full_disk_is_told_without_a_number(fake_router: Router) -> None:
    command = f"{typed()} generate hi --json --address {fake_router[1]} > /dev/full"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert "specgrove: error: No space left on device" in ended.stderr


def test_ctrl_c_ends_the_line_and_tells_what_there_was(fake_router: Router) -> None:
    flags = ["generate", "endless", "--raw", "--address", fake_router[1]]
    for more, note in (([], r"stopped after [1-4] tokens\n"), (["--quiet"], "")):
        command = [*SPECGROVE, *flags, *more]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        shown = process.stdout.read(len(ANSWER))
        process.send_signal(signal.SIGINT)
        rest, told = process.communicate(timeout=LIMIT_S)
        assert (shown + rest, process.returncode) == (ANSWER + "\n", 130)
        assert re.fullmatch(note, told)  # the last chunk is shown before it is counted


@pytest.mark.parametrize(
    ("num_tokens", "note"), [(0, "stopped before the first token\n"), (3, "stopped after 3 tokens\n")]
)
def test_ctrl_c_leaves_no_half_json(
    num_tokens: int, note: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class StoppedClient:
        def generate(self, *_: object, **__: object) -> Iterator[Chunk]:
            for token_id in range(num_tokens):
                yield Chunk((OutputToken(token_id, "a"),), "a")
            raise KeyboardInterrupt

    monkeypatch.setattr(generate, "connected", lambda _, **__: contextlib.nullcontext(StoppedClient()))
    assert main(["generate", "hi", "--json"]) == 130
    assert tuple(capsys.readouterr()) == ("", note)


def test_questions_are_kept_where_they_can_be(tmp_path: Path) -> None:
    kept = _kept_questions(tmp_path / "state" / "questions")
    kept.store_string("one")
    assert list(kept.load_history_strings()) == ["one"]
    shutil.rmtree(tmp_path / "state")
    kept.store_string("two")
    (tmp_path / "full").symlink_to("/dev/full")
    for place in (tmp_path, tmp_path / "full", Path("/proc/x")):
        kept = _kept_questions(place)
        assert isinstance(kept, InMemoryHistory)


def test_questions_are_utf_8_whatever_the_locale_is(fake_router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    piped = io.TextIOWrapper(io.BytesIO(b"caf\xc3\xa9\ncaf\xe9\n"), encoding="ascii")
    monkeypatch.setattr(sys, "stdin", piped)
    assert main(["chat", "--address", fake_router[1]]) == 1  # for the second one
    assert [request.chat.messages[-1].content for request in fake_router[0].requests] == ["café"]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"caf\xe9", "the prompt is not UTF-8 text: byte 3 is 0xe9"), (b"x" * (2 << 20), "more than the 1048576 bytes")],
)
def test_what_is_piped_in_must_be_a_text_that_a_router_takes(
    fake_router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: bytes, message: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["generate", "-", "--address", fake_router[1]]) == 1
    assert message in capsys.readouterr().err
    assert not fake_router[0].requests


@pytest.mark.parametrize(
    ("words", "closed", "said"),
    [
        (["generate", "-"], "<&-", "specgrove: error: standard input is closed: there is no prompt to read\n"),
        (["chat"], "<&-", ""),
        (["generate", "hi"], ">&-", "4 tokens"),
        (["generate", "hi"], "2>&-", ""),
    ],
)
def test_closed_streams_are_no_traceback(words: list[str], closed: str, said: str, fake_router: Router) -> None:
    command = f"{typed()} {' '.join(words)} --address {fake_router[1]} {closed}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith(said)


def test_other_encodings_get_a_sign_for_what_they_lack(fake_router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {}
    for flags in ([], ["--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="latin-1"))
        assert main(["generate", "chinese", "--raw", "--quiet", "--address", fake_router[1], *flags]) == 0
        sys.stdout.flush()
        shown[bool(flags)] = raw.getvalue()
    assert shown[False] == b"??\n"
    assert json.loads(shown[True])["output_text"] == "人工"


def test_a_reader_that_leaves_is_no_traceback(fake_router: Router) -> None:
    command = f"{typed()} generate hi --address {fake_router[1]} | true"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=os.environ, check=False)
    assert "Traceback" not in ended.stderr
