"""The process that makes masks: it has one vocabulary, and forks a process for each structure.

Started by ``llm_service.mask_processes``. A structure's process has the vocabulary at once. The kernel ends it where it takes more
processor time than it may, and it has no more memory than it may: a grammar can do what it likes. Invariant: all of them end when the
service does, however that happens.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.masks import Compiled, Forgotten, MaskMaker, Opening, Question
from specgrove.tokenizer import Tokenizer

NEWS = struct.Struct("=?ii")
"""What is told of a structure's process: whether it has begun or ended, its id, and its exit status. One that could not be forked has no
id, and the error's number."""

TOO_SLOW, EXPLORED_TOO_LONG = signal.SIGPROF, signal.SIGVTALRM
"""Signals that end a process: one took too much time for an answer, or for one that need not be."""

# Of processor time; a structure that the router let pass takes a second.
_MAX_COMPILE_S = 10.0
_MAX_EXPLORING_S = 0.1
_MAX_NUM_COMPILING = 4
# Beside what it has when it begins: of the first few that there are at a time, and of each further one.
_MAX_MORE_BYTES, _MAX_FURTHER_BYTES = 1 << 30, 1 << 28
_NUM_FIRST = 4


def serve(control: socket.socket, tokenizer: Tokenizer) -> None:
    """Forks until the service closes its end, or ends. Each message has a socket, and is answered by ``NEWS``."""
    _ = tokenizer.token_trie
    gc.collect()
    gc.freeze()  # what is there now is shared with all that are forked
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno())
    compiling = os.memfd_create("compiling")
    num_forked = 0
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            num_forked -= _tell_ended(control)
        if control in ready:
            message, fds, _, _ = socket.recv_fds(control, 1, 1)
            if not message:
                return
            (fd,) = fds
            try:
                pid = os.fork()
            except OSError as error:
                os.close(fd)
                control.send(NEWS.pack(False, 0, error.errno or 0))
                continue
            if pid == 0:
                os.setsid()  # its priority is its own (``lower_priority``)
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for other in (control, woken, wake):
                    other.close()
                with contextlib.suppress(EOFError, OSError):
                    _limit(_MAX_MORE_BYTES if num_forked < _NUM_FIRST else _MAX_FURTHER_BYTES)
                    serve_structure(Connection(fd), tokenizer, compiling)
                os._exit(0)
            os.close(fd)
            num_forked += 1
            control.send(NEWS.pack(True, pid, 0))


def _tell_ended(control: socket.socket) -> int:
    """How many."""
    num_ended = 0
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            control.send(NEWS.pack(False, *ended))
            num_ended += 1
    return num_ended


def serve_structure(connection: Connection, tokenizer: Tokenizer, compiling: int) -> None:
    """Answers until the service closes its end. Questions come first, then what may be told of nodes below roots. ``compiling`` is a file
    that all such processes have.
    """
    opening: Opening = connection.recv()
    compiler = GrammarCompiler(tokenizer)
    try:
        with _one_of_few(compiling), _ended_after(_MAX_COMPILE_S, signal.ITIMER_PROF):
            compiler.matcher(opening.structure)
    except RecursionError:
        connection.send(Compiled("is nested too deeply"))
        return
    except ValueError as error:
        connection.send(Compiled(str(error)))
        return
    connection.send(Compiled())
    maker = MaskMaker(lambda: compiler.matcher(opening.structure), explores=opening.explores, max_s=opening.max_s)
    while True:
        if maker.has_more and not connection.poll():
            with _ended_after(_MAX_EXPLORING_S, signal.ITIMER_VIRTUAL):
                explored = maker.explored()
            if explored is not None:
                connection.send(explored)
            continue
        message: Question | Forgotten = connection.recv()
        if isinstance(message, Forgotten):
            maker.forget(message.output)
            continue
        with _ended_after(max(maker.left_s(message), 1e-3), signal.ITIMER_PROF):
            answer = maker.answer(message)
        with _ended_after(
            _MAX_EXPLORING_S, signal.ITIMER_VIRTUAL
        ):  # it is asked again then, of one that doesn't explore
            answer = maker.with_possible_nodes(message, answer)
        connection.send(answer)


@contextlib.contextmanager
def _ended_after(limit_s: float, timer: int) -> Iterator[None]:
    """The timer's signal ends the process, whatever it is at."""
    signal.setitimer(timer, limit_s)
    try:
        yield
    finally:
        signal.setitimer(timer, 0)


@contextlib.contextmanager
def _one_of_few(compiling: int) -> Iterator[None]:
    """Waits for one of ``_MAX_NUM_COMPILING`` locks in the file. The kernel takes it from a process that ends."""
    place = os.getpid() % _MAX_NUM_COMPILING
    fcntl.lockf(compiling, fcntl.LOCK_EX, 1, place)
    try:
        yield
    finally:
        fcntl.lockf(compiling, fcntl.LOCK_UN, 1, place)


def _limit(max_more_bytes: int) -> None:
    """What asks for more memory ends the process. Where all memory is used up, the kernel ends one of these, and not the service."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + max_more_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_AS)  # nobody may raise that one
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """``python -m specgrove.structures.mask_server CONTROL_FD TOKENIZER_FD``: the second has the pickled tokenizer."""
    with os.fdopen(int(sys.argv[2]), "rb") as file:
        tokenizer = pickle.load(file)
    with contextlib.suppress(ConnectionError):  # the service has ended
        serve(socket.socket(fileno=int(sys.argv[1])), tokenizer)


if __name__ == "__main__":
    main()
