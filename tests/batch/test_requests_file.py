"""Lines that are no request are told with their number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from specgrove.batch.requests_file import BatchFileError, BatchRequest, read_requests


def line(custom_id: str = "a", **changes: Any) -> str:
    fields = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"}} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def test_requests_are_read_in_their_order_with_their_bodies_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    chat = {"messages": [{"role": "user", "content": "hé"}], "no_such_field": 1}
    path.write_text(f"{line('b')}\n\n{line('a', url='/v1/chat/completions', body=chat)}")
    assert read_requests(path) == (
        BatchRequest("b", "/v1/completions", {"prompt": "hi"}),
        BatchRequest("a", "/v1/chat/completions", chat),
    )


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ("{", "line 2 is not JSON (Expecting property name enclosed in double quotes, column 2)"),
        ("[]", "line 2 must be a JSON object, one a line"),
        (line(), "line 2: custom_id 'a' is that of line 1 too; give each its own"),
        (line(custom_id=None), "line 2: custom_id must be a text of 1 to 512 characters"),  # type: ignore[arg-type]
        (line("b", method="GET"), 'line 2: method must be "POST"'),
        (
            line("b", url="/v1/embeddings"),
            "line 2: url must be one of /v1/chat/completions, /v1/completions, /v1/responses, got",
        ),
        (line("b", body=[]), "line 2: body must be an object, as /v1/completions takes it"),
        (line("b", body={"stream": True}), "line 2: body.stream must be left out: an answer of a batch is one line"),
        (line("b", id="x"), "line 2: id is no field of a batch"),
    ],
)
def test_what_is_no_request(second: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(f"{line()}\n{second}\n")
    with pytest.raises(BatchFileError) as error:
        read_requests(path)
    assert said in str(error.value)


def test_a_file_without_requests_or_text(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("\n")
    with pytest.raises(BatchFileError, match="holds no request; write one a line"):
        read_requests(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(BatchFileError, match="line 1 is no text in UTF-8"):
        read_requests(path)
