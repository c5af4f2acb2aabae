"""A process that tokenises or renders conversations: it holds one tokenizer, and works on one text after another.

Used by ``TextWork``. Invariant: it ends when the router does, however that happens, and a text that ends or stops it ends nothing
else. The kernel ends it where a text takes more processor time than it may, and it has no more memory than it may: a template or a
grammar can do what it likes. With a low priority it takes little time from a model on the same cores.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar, cast

from specgrove.errors import InternalError
from specgrove.machine.low_priority import lower_priority
from specgrove.tokenizer import Tokenizer

ValueT = TypeVar("ValueT")

_START_LIMIT_S = 120.0
# By the clock a process with few processor time may take so much longer.
_MAX_SLOWNESS = 10
# Of what it has when it begins.
_MAX_MORE_BYTES = 4 << 30
_END_WAIT_S = 1.0


class ProcessEndedError(Exception):
    """The process ended before it answered."""


class TooSlowError(Exception):
    """The process takes too long; it is still at it."""


class TextProcess:
    """The router's side. Used by one thread."""

    def __init__(self, tokenizer: Tokenizer, what: str = "long texts", *, is_low_priority: bool = True) -> None:
        """For ``what``. Raises ``InternalError`` where it can't be started."""
        self.tokenizer = tokenizer
        ours, theirs = socket.socketpair()
        with ours, theirs:
            # Ends with this thread even in the middle of a text.
            command = [
                sys.executable,
                "-m",
                "specgrove.suite.supervised",
                str(os.getpid()),
                __name__,
                str(theirs.fileno()),
            ]
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
                )
            except OSError as error:
                raise InternalError(f"the process for {what} can't be started: {error}") from error
            if is_low_priority:
                lower_priority(self._process.pid)
            self._connection = Connection(ours.detach())
        self._is_told = False

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def run(self, function: Callable[[Tokenizer], ValueT], limit_s: float) -> ValueT:
        """The function's value, or the ``ValueError`` that it raised. ``function`` and value are pickled.

        Raises ``ProcessEndedError``, ``TooSlowError`` after ``limit_s`` seconds of processor time or ten times that by the clock, and
        ``InternalError`` where the function failed otherwise.
        """
        try:
            if not self._is_told:
                self._connection.send(self.tokenizer)
                if not self._connection.poll(_START_LIMIT_S):
                    raise ProcessEndedError(f"it was not ready after {_START_LIMIT_S:g} s")
                self._connection.recv()
                self._is_told = True
            self._connection.send((function, limit_s))
            if not self._connection.poll(limit_s * _MAX_SLOWNESS):
                raise TooSlowError
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            if self._was_too_slow():
                raise TooSlowError from error
            raise ProcessEndedError(f"it ended by itself: {error or 'end of its stream'}") from error
        if isinstance(answer, Exception):
            raise answer
        return cast(ValueT, answer)

    def _was_too_slow(self) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(_END_WAIT_S) == -signal.SIGPROF
        return False

    def kill(self) -> None:
        """At once. May be called by any thread: what runs raises ``ProcessEndedError``."""
        self._process.kill()

    def end(self) -> None:
        """Kills it, and gives back what it held."""
        self.kill()
        self._process.wait()
        self._connection.close()


def serve(connection: Connection) -> None:
    """Answers until the router closes its end, or ends."""
    tokenizer = connection.recv()
    _limit_memory()
    connection.send(None)  # from now on the time counts
    while True:
        function, limit_s = connection.recv()
        # SIGPROF ends the process, whatever it is at.
        signal.setitimer(signal.ITIMER_PROF, limit_s)
        value = _value_of(function, tokenizer)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(value)


def _limit_memory() -> None:
    """What asks for more gets a ``MemoryError``."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + _MAX_MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _value_of(function: Callable[[Tokenizer], object], tokenizer: Tokenizer) -> object:
    # Errors go as plain ones: not every class can be made from its pickled form.
    try:
        return function(tokenizer)
    except ValueError as error:
        return ValueError(str(error))
    except Exception as error:
        return InternalError(f"{type(error).__name__}: {error}")


def main() -> None:
    """``python -m router.text_process FD``: serves on the socket of this number."""
    with contextlib.suppress(EOFError, OSError):
        serve(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
