"""Log lines of all processes: when, how bad, which service, what. Set up once in each ``__main__``.

Whoever started a process reads them back: ``parsed`` takes a line apart.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from dataclasses import dataclass


def set_up_logging(service: str, level: str = "INFO", format: str = "text") -> None:
    """Sends lines to stderr: ``12:00:00.123 INFO router: connected``, or one JSON object each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(service)
        if format == "json"
        else logging.Formatter(f"%(asctime)s.%(msecs)03d %(levelname)s {service}: %(message)s", datefmt="%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (ISO 8601, UTC), ``level``, ``service``, ``logger``, ``message``, and fields given as ``extra``."""

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
