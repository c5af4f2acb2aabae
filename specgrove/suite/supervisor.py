"""Keeps a few child processes running: restarts what dies, forwards their output line by line, stops them in order.

Used by ``specgrove.suite.processes``; knows processes, not gRPC. One thread owns every child: it alone starts, restarts and reaps them,
and because the kernel ties their lives to that thread's (``specgrove.suite.supervised``), no child outlives it.
"""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from specgrove.telemetry.logs import parsed

_POLL_S = 0.05
_FIRST_BACKOFF_S = 0.2
_MAX_BACKOFF_S = 10.0
# A process that lived this long was started well: its next restart waits for the first backoff again.
_SETTLED_S = 30.0
_NUM_KEPT_LINES = 30

LogLine = Callable[[str, str], None]
"""Called with the name of a process and a line of its output, from any thread."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """``python -m module arguments``, under ``name`` in logs."""

    name: str
    module: str
    arguments: tuple[str, ...]


class ProcessFailedError(Exception):
    """A process ended while it was being started; ``lines`` are its last words."""

    def __init__(self, name: str, exit_code: int, lines: Sequence[str]) -> None:
        super().__init__(f"{name} ended with {_exit_in_words(exit_code)} while starting: {_cause(lines)}")
        self.name = name
        self.lines = tuple(lines)


@dataclass(slots=True)
class _Child:
    spec: ProcessSpec
    lines: collections.deque[str] = field(default_factory=lambda: collections.deque(maxlen=_NUM_KEPT_LINES))
    process: subprocess.Popen[str] | None = None
    pump: threading.Thread | None = None
    started_s: float = 0.0
    backoff_s: float = _FIRST_BACKOFF_S
    restart_at_s: float | None = None
    num_restarts: int = 0


class Supervisor:
    """Starts ``specs`` in order and stops them in the reverse order. Use ``start``, ``expect_up`` and ``stop``, once each."""

    def __init__(
        self, specs: Sequence[ProcessSpec], log_line: LogLine, drain_s: float, *, max_backoff_s: float = _MAX_BACKOFF_S
    ) -> None:
        """``drain_s``: seconds between SIGTERM and SIGKILL for each process; ``max_backoff_s``: the longest pause before a restart."""
        self._children = {spec.name: _Child(spec) for spec in specs}
        self._log_line = log_line
        self._drain_s = drain_s
        self._max_backoff_s = max_backoff_s
        self._stopping = threading.Event()
        self._are_up = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def check(self) -> None:
        """Raises what went wrong while starting."""
        if self._failure is not None:
            raise self._failure

    def expect_up(self) -> None:
        """From now on a process that ends is started again; until now it was a failure to start."""
        self._are_up.set()

    def pid(self, name: str) -> int | None:
        """The process's id now; ``None`` between its end and its restart."""
        process = self._children[name].process
        return process.pid if process is not None and process.returncode is None else None

    def num_restarts(self, name: str) -> int:
        """How often it was started again."""
        return self._children[name].num_restarts

    def stop(self) -> None:
        """SIGTERM to each process, SIGKILL after the drain time. Returns when all have ended; harmless when called twice."""
        self._stopping.set()
        # The thread itself comes here where the garbage collector ends an object in it.
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def kill(self) -> None:
        """SIGKILL to all, for the impatient; ``stop`` must follow or be under way."""
        for name in self._children:
            pid = self.pid(name)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _run(self) -> None:
        try:
            for child in self._children.values():
                self._spawn(child)
            while not self._stopping.wait(_POLL_S):
                for child in self._children.values():
                    self._tend(child)
        except Exception as error:
            self._failure = error
        finally:
            for child in reversed(self._children.values()):
                self._end(child)

    def _spawn(self, child: _Child) -> None:
        launcher = [sys.executable, "-m", "specgrove.suite.supervised", str(os.getpid()), child.spec.module]
        # A session of its own: Ctrl-C in a terminal reaches this process only, which then stops them in order.
        child.process = subprocess.Popen(
            [*launcher, *child.spec.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | _own_path(),
            start_new_session=True,
        )
        child.started_s = time.monotonic()
        child.restart_at_s = None
        child.pump = threading.Thread(target=self._pump, args=(child, child.process), daemon=True)
        child.pump.start()

    def _pump(self, child: _Child, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                child.lines.append(line.rstrip("\n"))
                # Whatever the callback does: a pipe that nobody reads fills up, and blocks the child.
                with contextlib.suppress(BaseException):
                    self._log_line(child.spec.name, line.rstrip("\n"))

    def _tend(self, child: _Child) -> None:
        now_s = time.monotonic()
        if child.restart_at_s is not None:
            if now_s >= child.restart_at_s:
                child.num_restarts += 1
                self._spawn(child)
            return
        assert child.process is not None
        exit_code = child.process.poll()
        if exit_code is None:
            return
        if not self._are_up.is_set():
            if child.pump is not None:
                child.pump.join(timeout=1)
            raise ProcessFailedError(child.spec.name, exit_code, child.lines)
        if now_s - child.started_s > _SETTLED_S:
            child.backoff_s = _FIRST_BACKOFF_S
        child.restart_at_s = now_s + child.backoff_s
        message = f"ended with {_exit_in_words(exit_code)}; starting it again in {child.backoff_s:.1f} s"
        child.backoff_s = min(2 * child.backoff_s, self._max_backoff_s)
        self._log_line(child.spec.name, message)

    def _end(self, child: _Child) -> None:
        if child.process is None:
            return
        if child.process.poll() is None:
            child.process.terminate()
            try:
                child.process.wait(timeout=self._drain_s)
            except subprocess.TimeoutExpired:
                self._log_line(child.spec.name, f"still running {self._drain_s:.0f} s after SIGTERM; killing it")
                child.process.kill()
                child.process.wait()
        if child.pump is not None:
            child.pump.join(timeout=1)


def _own_path() -> dict[str, str]:
    """``-m`` looks for modules in the current folder first. Where this process doesn't, the child is told not to.

    Somebody's ``signal.py`` there would be imported instead of Python's, or a clone of this repository instead of what is installed.
    """
    try:
        has_folder = "" in sys.path or os.getcwd() in sys.path  # noqa: PTH109  as Python writes it there
    except FileNotFoundError:  # it was removed
        has_folder = False
    return {} if has_folder else {"PYTHONSAFEPATH": "1"}


def _exit_in_words(exit_code: int) -> str:
    return f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _cause(lines: Sequence[str]) -> str:
    """The last error of its log, without time and name; else its last line that says something, as a traceback's does."""
    found = [(parsed(line), line.strip()) for line in reversed(lines) if line.strip()]
    errors = [log_line.message for log_line, _ in found if log_line is not None and log_line.level == "ERROR"]
    others = [line if log_line is None else log_line.message for log_line, line in found]
    return next(iter((*errors, *others)), "it printed nothing")
