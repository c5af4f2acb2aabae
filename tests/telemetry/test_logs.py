"""Log lines, as they are written and as they are read back."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from specgrove.suite.supervisor import ProcessFailedError
from specgrove.telemetry.logs import (
    JsonFormatter,
    ParsedLine,
    TextFormatter,
    mark_lines,
    of_requests,
    parsed,
    set_up_logging,
)


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_line_is_read_back_as_it_was_written(
    format: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers])
    monkeypatch.setattr(root, "level", root.level)
    set_up_logging("llm_service[1]", format=format)
    logging.getLogger("a.module").warning("no room: %d slots", 7, extra={"slots": 7})
    line = capsys.readouterr().err.strip()
    assert parsed(line) == ParsedLine("WARNING", "llm_service[1]", "no room: 7 slots")
    assert "a.module" not in line or json.loads(line)["slots"] == 7


@pytest.mark.parametrize("line", ["", "Traceback (most recent call last):", '{"time": 1', '{"time": "x"}'])
def test_other_lines_are_none_of_a_log(line: str) -> None:
    assert parsed(line) is None


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["12:00:00.123 INFO llm: x", "12:00:00.124 ERROR llm: no GPU is found", ""], "no GPU is found"),
        (["12:00:00.124 ERROR llm: no GPU is found", "a library's last word"], "no GPU is found"),
        (["Traceback", "ValueError: 3"], "ValueError: 3"),
        (["12:00:00.123 INFO llm: loading"], "loading"),
        ([], "it printed nothing"),
    ],
)
def test_what_a_process_failed_for_is_told_without_time_and_name(lines: list[str], cause: str) -> None:
    assert (
        str(ProcessFailedError("llm_service", 1, lines))
        == f"llm_service ended with exit code 1 while starting: {cause}"
    )


@pytest.mark.parametrize("is_json", [False, True])
async def test_a_tasks_lines_and_those_of_tasks_that_it_starts_are_of_its_request(
    is_json: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.handler.setFormatter(JsonFormatter("router") if is_json else TextFormatter("%(message)s"))
    logger = logging.getLogger("a.module")

    async def serve(request_id: str) -> None:
        mark_lines(request_id)
        await asyncio.create_task(say(f"in {request_id}"))

    async def say(message: str) -> None:
        logger.warning(message)

    await asyncio.gather(serve("0123456789ab"), serve("ba9876543210"))
    logger.warning("of none")
    logger.warning("of two", extra=of_requests(["0123456789ab", None, "ba9876543210"]))
    logger.warning("of one", extra=of_requests(["0123456789ab"]))
    found = caplog.text.splitlines()
    if not is_json:
        assert found == [
            "request 01234567: in 0123456789ab",
            "request ba987654: in ba9876543210",
            "of none",
            "requests 01234567, ba987654: of two",
            "request 01234567: of one",
        ]
        return
    ids = [(fields.get("request_id"), fields.get("request_ids")) for fields in map(json.loads, found)]
    assert ids == [
        ("0123456789ab", None), ("ba9876543210", None), (None, None), (None, ["0123456789ab", "ba9876543210"]), ("0123456789ab", None),
    ]  # fmt: skip
