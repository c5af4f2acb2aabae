"""Log lines of all processes: when, how bad, which service, of which request, what. Set up once in each ``__main__``.

A request has one id in all services: the router draws it, and sessions are named by it. Lines of a task that serves a request have it by
``mark_lines``; threads that work for several requests at once name them in ``extra``. Whoever started a process reads lines back:
``parsed`` takes one apart.
"""

from __future__ import annotations

import contextvars
import json
import logging
import re
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass

# Of an id, in lines for people.
_SHOWN_ID_LEN = 8
_request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)


def mark_lines(request_id: str) -> None:
    """From now on lines of this asyncio task, and of those that it starts, are of this request."""
    _request_id.set(request_id)


def marked_request() -> str | None:
    """Whose lines these are."""
    return _request_id.get()


def of_requests(request_ids: Iterable[str | None]) -> dict[str, object]:
    """For ``extra``, where no task's lines are marked: of one request, or of several."""
    known = [request_id for request_id in request_ids if request_id is not None]
    if len(known) == 1:
        return {"request_id": known[0]}
    return {"request_ids": known} if known else {}


def set_up_logging(service: str, level: str = "INFO", format: str = "text") -> None:
    """Sends lines to stderr: ``12:00:00.123 INFO router: connected``, or one JSON object each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(service)
        if format == "json"
        else TextFormatter(f"%(asctime)s.%(msecs)03d %(levelname)s {service}: %(message)s", datefmt="%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _request_ids(record: logging.LogRecord) -> list[str]:
    of_record = getattr(record, "request_id", None) or _request_id.get()
    return [of_record] if of_record is not None else getattr(record, "request_ids", [])


class TextFormatter(logging.Formatter):
    """``request 3f0c9a51: `` before the message, where it belongs to one; of several, all of them."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """See ``logging.Formatter``."""
        if request_ids := [request_id[:_SHOWN_ID_LEN] for request_id in _request_ids(record)]:
            kind = "request" if len(request_ids) == 1 else "requests"
            record.message = f"{kind} {', '.join(request_ids)}: {record.message}"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (ISO 8601, UTC), ``level``, ``service``, ``logger``, ``message``, and fields given as ``extra``.

    ``request_id`` is there where the line belongs to a request.
    """

    _own_names = frozenset(vars(logging.makeLogRecord({})))

    def __init__(self, service: str) -> None:
        super().__init__(datefmt="%Y-%m-%dT%H:%M:%S")
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        fields = {
            "time": f"{self.formatTime(record, self.datefmt)}.{record.msecs:03.0f}Z",
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **({} if (request_id := _request_id.get()) is None else {"request_id": request_id}),
            **{name: value for name, value in vars(record).items() if name not in self._own_names},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str, ensure_ascii=False)

    @staticmethod
    def converter(timestamp: float | None) -> time.struct_time:
        """UTC, whatever the machine's time zone."""
        return time.gmtime(timestamp)


_TEXT_LINE = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (?P<level>[A-Z]+) (?P<service>\S+): (?P<message>.*)")


@dataclass(frozen=True, slots=True)
class ParsedLine:
    """What a process printed, where it is a line of its log."""

    level: str
    service: str
    message: str


def parsed(line: str) -> ParsedLine | None:
    """``None`` for what is no line of a log: a traceback, a library's warning."""
    if (found := _TEXT_LINE.fullmatch(line)) is not None:
        return ParsedLine(**found.groupdict())
    if not line.startswith('{"time": '):
        return None
    try:
        fields = json.loads(line)
        return ParsedLine(fields["level"], fields["service"], fields["message"])
    except (ValueError, KeyError, TypeError):
        return None
