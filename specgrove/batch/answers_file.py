"""The file of answers: a line of JSON for each request, ``{"id", "custom_id", "response", "error"}``, added as answers come.

A run that was stopped leaves the lines that it had. The next one keeps those that are final, and when all are there the file gets the
order of the requests. Invariant: each request has at most one line; only the last line may be incomplete, where a run was killed. One run
at a time has the file: a lock on the file itself says so, which ends with its process. A link is followed; what is no file (a device, a
pipe) is refused, because the file is replaced as a whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from specgrove.batch.requests_file import BatchFileError, json_lines

_OK = 200
# Of statuses below 500: a key that is known no more, and no room.
_NOT_FINAL = (401, 403, 429)
_ID_PREFIX = "batch_req_"
_BEGINNING = f'{{"id": "{_ID_PREFIX}'.encode()
# They come from \ud83d and the like in the file of requests, and are written as that again.
_HALF_CHARACTERS = "backslashreplace"


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """What came of a request: a status with a body, or else ``error``, which says why there is none."""

    custom_id: str
    status: int | None = None
    body: dict[str, Any] | None = None
    error: str | None = None
    request_id: str = ""
    """By which the router's log has it."""

    @property
    def is_good(self) -> bool:
        """Whether it has outputs."""
        return self.status == _OK

    @property
    def is_final(self) -> bool:
        """Whether asking again would bring the same: not where the router had no room, took the key for none, or something broke."""
        return self.status is not None and self.status < 500 and self.status not in _NOT_FINAL

    @property
    def problem(self) -> str | None:
        """What is wrong, in words."""
        if self.is_good:
            return None
        if self.body is None:
            return self.error
        told = self.body.get("error")
        return str(told.get("message")) if isinstance(told, dict) else f"status {self.status}"


class AnswersFile:
    """The answers of one run, and of those before it. Use it in ``with``."""

    def __init__(self, path: Path, custom_ids: Sequence[str]) -> None:
        """Reads what is there.

        Raises ``BatchFileError`` where that is something else, or another run writes it, and ``OSError`` where it can't be written.
        """
        self._path = path = _checked(path)
        self._places = {custom_id: place for place, custom_id in enumerate(custom_ids)}
        self._file = _locked(path)
        try:
            kept = [line for line in _lines_of(path, self._places) if _answer_of(line).is_final]
            self._lines = {line["custom_id"]: line for line in kept}
            self._write(self._lines.values())
        except BaseException:
            self._file.close()
            raise

    @property
    def answered(self) -> Collection[str]:
        """The ids of the requests that have their answers."""
        return self._lines.keys()

    def add(self, answer: BatchAnswer) -> None:
        """The next line, on the disk at once."""
        line = _line_of(answer)
        self._lines[answer.custom_id] = line
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()

    def put_in_order(self) -> list[BatchAnswer]:
        """Once all answers are there: writes them in the order of the requests, and returns them so."""
        ordered = sorted(self._lines.values(), key=lambda line: self._places[line["custom_id"]])
        self._write(ordered)
        return [_answer_of(line) for line in ordered]

    def _write(self, lines: Collection[dict[str, Any]]) -> None:
        """The whole file, or what was there before."""
        partial = self._path.with_name(f".{self._path.name}.partial")
        partial.unlink(missing_ok=True)  # of a run that was killed
        file = _locked(partial)
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        file.flush()
        os.replace(partial, self._path)  # noqa: PTH105
        self._file.close()
        self._file = file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def _checked(path: Path) -> Path:
    """Where the file lies, behind all links: what is put in its place must not come in the place of a link, or of /dev/null."""
    real = Path(os.path.realpath(path))  # pathlib's own way fails where links lead in a circle
    if real.exists() and not real.is_file():
        raise BatchFileError(f"{path} is no file that can hold answers: give a file, which a later run can go on with")
    return real


def _locked(path: Path) -> IO[str]:
    """The file, to add to, and no other run's until it is closed. Raises ``BatchFileError`` where it is another's."""
    while True:
        file = path.open("a", encoding="utf-8", errors=_HALF_CHARACTERS)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            file.close()
            raise BatchFileError(
                f"{path} is being written by another `specgrove batch`: wait for its end, or give another file for the answers"
            ) from None
        file.close()  # the other run has put another file in its place meanwhile


def _lines_of(path: Path, known: Collection[str]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    _check_half_a_line(path)
    lines = []
    for number, line in json_lines(path, has_half_a_line=True):
        if not _is_answer(line):
            raise BatchFileError(f"{path}, line {number} is no answer of a batch: give another file for the answers")
        if line["custom_id"] not in known:
            raise BatchFileError(
                f"{path}, line {number} answers {line['custom_id']!r}, which is not asked: give another file for the answers"
            )
        lines.append(line)
    return lines


def _is_answer(line: dict[str, Any]) -> bool:
    """Whether it has the form of ``_line_of``, as far as it is read here."""
    if not {"custom_id", "response", "error"} <= line.keys() or not isinstance(line["custom_id"], str):
        return False
    response, error = line["response"], line["error"]
    if not isinstance(response, dict | None) or not isinstance(error, dict | None):
        return False
    return response is None or (
        type(response.get("status_code")) is int and isinstance(response.get("body"), dict | None)
    )


def _check_half_a_line(path: Path) -> None:
    """What a run was writing when it was killed is left out; anything else belongs to somebody."""
    half = path.read_bytes().rpartition(b"\n")[2]
    if half[: len(_BEGINNING)] != _BEGINNING[: len(half)]:
        raise BatchFileError(f"{path} ends with what is no answer of a batch: give another file for the answers")


def _line_of(answer: BatchAnswer) -> dict[str, Any]:
    response = None
    if answer.status is not None:
        response_id = answer.request_id or (answer.body or {}).get("id", "")
        response = {"status_code": answer.status, "request_id": response_id, "body": answer.body}
    error = None if answer.error is None else {"code": "no_answer", "message": answer.error}
    return {
        "id": f"{_ID_PREFIX}{secrets.token_hex(12)}",
        "custom_id": answer.custom_id,
        "response": response,
        "error": error,
    }


def _answer_of(line: dict[str, Any]) -> BatchAnswer:
    response, error = line["response"] or {}, line["error"] or {}
    return BatchAnswer(line["custom_id"], response.get("status_code"), response.get("body"), error.get("message"))
