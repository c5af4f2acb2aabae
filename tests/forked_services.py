"""Services of suites that tests start, forked from a process that has imported what they import: most of a start is importing.

A model service takes 0.1 s of processor time so, and 2.8 s otherwise. ``tests/conftest.py`` lets ``specgrove.suite.supervisor`` start
them so in the process of the tests, ``tests/with_forked_services.py`` in a command's. A forked service is else the one that
``python -m`` makes: a session, arguments, environment, memory and network of its own, and it dies with who started it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from specgrove.machine.parent import die_with
from specgrove.suite import supervised

_ROOT = Path(__file__).parent.parent
_NUMBER = struct.Struct("i")
_MAX_REQUEST_BYTES = 1 << 17
_END_WAIT_S = 60.0
_NAMESPACES = ("user", "net")
_PR_SET_DUMPABLE = 4  # man 2 PR_SET_DUMPABLE
_TORCH = "torch"
# What forks, by the module that is started. A router's process has no torch in it.
FORKERS = {
    "llm_service": _TORCH,
    "ssm_service": _TORCH,
    "tests.end_to_end.sick_services": _TORCH,
    "router": "router",
}
# They time passes of up to 128 rows when they are first asked, for two seconds with the demo LLM. No suite's test is about these times.
_MEASURING = ("llm_service.servicer", "ssm_service.servicer")
_IMPORTED = {_TORCH: ("llm_service.service", "ssm_service.service"), "router": ("router.app",)}


class ForkedProcess:
    """What the supervisor uses of ``subprocess.Popen``, for a process that is another's child."""

    def __init__(self, status: int, output: int) -> None:
        """``status`` is the end of a pipe that tells the process's id, and how it ended; ``output`` that of its output."""
        self._status = status
        self._lock = threading.Lock()
        self.stdout = open(output, encoding="utf-8", errors="replace")  # noqa: SIM115  the supervisor closes it
        self.returncode: int | None = None
        self.pid = self._next_number()

    def _next_number(self) -> int:
        found = os.read(self._status, _NUMBER.size)
        return int(_NUMBER.unpack(found)[0]) if found else -signal.SIGKILL

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        with self._lock:
            if self.returncode is None and select.select([self._status], [], [], 0)[0]:
                self.returncode = self._next_number()
                os.close(self._status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises ``subprocess.TimeoutExpired``."""
        if self.returncode is None:
            select.select([self._status], [], [], timeout)
        exit_code = self.poll()
        if exit_code is None:
            raise subprocess.TimeoutExpired("a forked service", timeout or 0.0)
        return exit_code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its end is not told yet
                os.kill(self.pid, number)


class ForkingSubprocess:
    """The module ``subprocess`` as the supervisor sees it. What forks is another's, and listens in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, words: Sequence[str], **options: Any) -> Any:  # noqa: N802
        """Forked where ``words`` start a service."""
        forker = FORKERS.get(words[4]) if list(words[1:3]) == ["-m", supervised.__name__] else None
        if forker is None:
            return subprocess.Popen(words, **options)
        self.expect(forker)
        request = {
            "words": list(words[4:]), "environment": dict(os.environ), "folder": str(Path.cwd()), "pid": os.getpid()
        }  # fmt: skip
        status, its_status = os.pipe()
        output, its_output = os.pipe()
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connected:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _MAX_REQUEST_BYTES)
                connected.connect(str(self.folder / forker))
                socket.send_fds(connected, [json.dumps(request).encode()], [its_status, its_output])
        finally:
            os.close(its_status)
            os.close(its_output)
        return ForkedProcess(status, output)

    def expect(self, forker: str) -> None:
        """It is going to be asked."""


class OwnForkers(ForkingSubprocess):
    """What forks is started with the first service, and ends with ``close``."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="specgrove-forkers-")))
        self._lock = threading.Lock()
        self._forkers: dict[str, tuple[socket.socket, subprocess.Popen[bytes]]] = {}

    def expect(self, forker: str) -> None:
        """It is there."""
        with self._lock:
            if forker not in self._forkers:
                self._forkers[forker] = _started(self.folder / forker, _IMPORTED[forker])

    def expect_all(self) -> None:
        """For commands, whose services are anyone's."""
        for forker in _IMPORTED:
            self.expect(forker)

    def close(self) -> None:
        """Ends what forks, and its services with it."""
        with self._lock:
            for lifetime, forker in self._forkers.values():
                lifetime.close()
                forker.wait(_END_WAIT_S)
            self._forkers.clear()
        shutil.rmtree(self.folder)


def _started(path: Path, imported: Sequence[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """It ends when the other end of its lifetime is closed, as it is when this process ends."""
    lifetime, its_lifetime = socket.socketpair()
    with its_lifetime, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        descriptors = its_lifetime.fileno(), listening.fileno()
        forker = subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, descriptors), *imported], cwd=_ROOT, pass_fds=descriptors,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    return lifetime, forker


def _fork_for_all(lifetime: socket.socket, listening: socket.socket) -> list[str]:
    """Returns in each service, with its words."""
    while True:
        if lifetime in select.select([lifetime, listening], [], [])[0]:
            sys.exit(0)
        connected, _ = listening.accept()
        pid = os.getpid()
        if os.fork() == 0:
            lifetime.close()
            listening.close()
            with connected:
                content, descriptors, _, _ = socket.recv_fds(connected, _MAX_REQUEST_BYTES, 2)
            if not content:  # who asked has ended
                os._exit(0)
            return _fork_one(pid, json.loads(content), *descriptors)
        connected.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _fork_one(parent_pid: int, request: dict[str, Any], status: int, output: int) -> list[str]:
    """Forks again and returns there; here it tells how the service ended, and ends it where nobody is told."""
    _enter_namespaces_of(request["pid"])
    die_with(parent_pid)
    own_pid = os.getpid()
    pid = os.fork()
    if pid != 0:
        _tell_end(pid, status, output)
    os.close(status)
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[:0] = [request["folder"]]
    return [str(own_pid), *request["words"]]


def _enter_namespaces_of(pid: int) -> None:
    """Of who asks: its network may be its own. This process has one thread, as Linux wants for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    for name in _NAMESPACES:
        wanted = Path(f"/proc/{pid}/ns/{name}")
        if wanted.samefile(f"/proc/self/ns/{name}"):
            continue
        descriptor = os.open(wanted, os.O_RDONLY)
        if libc.setns(descriptor, 0) != 0:
            raise OSError(ctypes.get_errno(), f"setns({wanted})")
        os.close(descriptor)
        libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # else its /proc is root's


def _tell_end(pid: int, status: int, output: int) -> NoReturn:
    os.close(output)
    os.write(status, _NUMBER.pack(pid))
    process = os.pidfd_open(pid)
    ends = select.poll()
    ends.register(process, select.POLLIN)
    ends.register(status, 0)  # whether anyone reads is always told
    if process not in dict(ends.poll()):
        os.kill(pid, signal.SIGKILL)
    _, ended = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(ended)))
    os._exit(0)


def _end(error: BaseException | None) -> NoReturn:
    """As Python ends, but for the half second in which it takes all modules apart: that writes to all that is shared."""
    exit_code = error.code if isinstance(error, SystemExit) else 0 if error is None else 1
    if not isinstance(exit_code, int | None):
        print(exit_code, file=sys.stderr)
        exit_code = 1
    elif error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(error)
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code or 0)


if __name__ == "__main__":
    for name in ("specgrove.serving.grpc_environment", *sys.argv[3:]):
        importlib.import_module(name)
    for servicer in [sys.modules[name] for name in _MEASURING if name in sys.modules]:
        servicer._WARMUP_NUMS_TOKENS = [1, 2, 4, 8]  # type: ignore[attr-defined]
    gc.freeze()  # what is imported is shared with all services, as long as nobody writes to it: garbage collectors do
    ended: BaseException | None = None
    try:
        supervised.main(_fork_for_all(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3])))
    except BaseException as error:
        ended = error
    _end(ended)
