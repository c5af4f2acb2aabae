"""The file of requests: a line of JSON each, ``{"custom_id": ..., "method": "POST", "url": ..., "body": {...}}``.

Invariant: what is read is of the right form, and no two requests have one id; anything else is a ``BatchFileError`` with the line's number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_ID_LEN = 512
URLS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")


class BatchFileError(ValueError):
    """A line is not what it should be. The text names file and line."""


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """One line. ``body`` is what is sent."""

    custom_id: str
    url: str
    body: dict[str, Any]


def read_requests(path: Path) -> tuple[BatchRequest, ...]:
    """In the order of the file; empty lines are skipped. Raises ``BatchFileError`` and ``OSError``."""
    requests: dict[str, BatchRequest] = {}
    lines: dict[str, int] = {}
    for number, line in json_lines(path):
        place = f"{path}, line {number}"
        request = _request_of(line, place)
        if request.custom_id in requests:
            raise BatchFileError(
                f"{place}: custom_id {request.custom_id!r} is that of line {lines[request.custom_id]} too; give each its own"
            )
        requests[request.custom_id], lines[request.custom_id] = request, number
    if not requests:
        raise BatchFileError(f"{path} holds no request; write one a line")
    return tuple(requests.values())


def json_lines(path: Path, *, has_half_a_line: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file by the numbers of their lines. Raises ``BatchFileError`` and ``OSError``.

    ``has_half_a_line``: a last line without its end is left out.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip() or (has_half_a_line and not line.endswith(b"\n")):
                continue
            place = f"{path}, line {number}"
            try:
                value = json.loads(line.decode("utf-8-sig").rstrip())
            except UnicodeDecodeError as error:
                raise BatchFileError(f"{place} is no text in UTF-8") from error
            except (ValueError, RecursionError) as error:
                # The error's own line is always 1: it saw this line only.
                said = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
                raise BatchFileError(f"{place} is not JSON ({said})") from error
            if not isinstance(value, dict):
                raise BatchFileError(f"{place} must be a JSON object, one a line")
            yield number, value


def _request_of(line: dict[str, Any], place: str) -> BatchRequest:
    if unknown := sorted(line.keys() - {"custom_id", "method", "url", "body"}):
        raise BatchFileError(f"{place}: {unknown[0]} is no field of a batch: custom_id, method, url and body are")
    custom_id = line.get("custom_id")
    if not isinstance(custom_id, str) or not 1 <= len(custom_id) <= _MAX_ID_LEN:
        raise BatchFileError(f"{place}: custom_id must be a text of 1 to {_MAX_ID_LEN} characters")
    if line.get("method") != "POST":
        raise BatchFileError(f'{place}: method must be "POST"')
    url = line.get("url")
    if url not in URLS:
        raise BatchFileError(f"{place}: url must be one of {', '.join(URLS)}, got {url!r}")
    body = line.get("body")
    if not isinstance(body, dict):
        raise BatchFileError(f"{place}: body must be an object, as {url} takes it")
    if body.get("stream"):
        raise BatchFileError(f"{place}: body.stream must be left out: an answer of a batch is one line")
    return BatchRequest(custom_id, url, body)
