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

from specgrove.machine.parent import die_with
from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.masks import Compiled, Forgotten, MaskMaker, Opening, Question
from specgrove.tokenizer import Tokenizer

ASKED = struct.Struct("=i")
"""What is asked for: 0 a process, and with it comes a socket; another number is that of an ended process, which may be another's now."""

NEWS = struct.Struct("=?ii")
"""What is told of a structure's process: whether it has begun or ended, its id, and its exit code, or the signal that ended it, negative.
The id is no other process's before that is asked for. One that could not be forked has no id, and the error's number."""

TOO_SLOW, EXPLORED_TOO_LONG = signal.SIGPROF, signal.SIGVTALRM
"""Signals that end a process: one took too much time for an answer, or for one that need not be."""

_MAX_NUM_COMPILING = 4


def serve(control: socket.socket, tokenizer: Tokenizer) -> None:
    """Forks until the service closes its end, or ends. Each message is an ``ASKED``; processes are told of by ``NEWS``."""
    _ = tokenizer.token_trie
    gc.collect()
    gc.freeze()  # what is there now is shared with all that are forked
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno())
    compiling = os.memfd_create("compiling")
    running: set[int] = set()
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ended(control, running)
        if control not in ready:
            continue
        message, fds, _, _ = socket.recv_fds(control, ASKED.size, 1)
        if not message:
            return
        (ended,) = ASKED.unpack(message)
        if ended:
            os.waitpid(ended, 0)
            continue
        (fd,) = fds
        server_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(fd)
            control.send(NEWS.pack(False, 0, error.errno or 0))
            continue
        if pid == 0:
            die_with(server_pid)
            os.setsid()  # its priority is its own (``lower_priority``)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (control, woken, wake):
                other.close()
            with contextlib.suppress(EOFError, OSError):
                serve_structure(Connection(fd), tokenizer, compiling)
            os._exit(0)
        os.close(fd)
        running.add(pid)
        control.send(NEWS.pack(True, pid, 0))


def _tell_ended(control: socket.socket, running: set[int]) -> None:
    for pid in tuple(running):
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            running.discard(pid)
            has_exited = found.si_code == os.CLD_EXITED
            control.send(NEWS.pack(False, pid, found.si_status if has_exited else -found.si_status))


def serve_structure(connection: Connection, tokenizer: Tokenizer, compiling: int) -> None:
    """Answers until the service closes its end. Questions come first, then what may be told of nodes below roots. ``compiling`` is a file
    that all such processes have.
    """
    opening: Opening = connection.recv()
    limits = opening.limits
    _limit(opening.max_more_bytes)
    compiler = GrammarCompiler(tokenizer)
    try:
        with _one_of_few(compiling), _ended_after(limits.compile_s, signal.ITIMER_PROF):
            compiler.matcher(opening.structure)
    except RecursionError:
        connection.send(Compiled("is nested too deeply"))
        return
    except ValueError as error:
        connection.send(Compiled(str(error)))
        return
    connection.send(Compiled())
    maker = MaskMaker(lambda: compiler.matcher(opening.structure), explores=opening.explores, max_s=limits.output_s)
    while True:
        if maker.has_more and not connection.poll():
            with _ended_after(limits.exploring_s, signal.ITIMER_VIRTUAL):
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
        # Where that ends it, the question is asked of one that doesn't explore.
        with _ended_after(limits.exploring_s, signal.ITIMER_VIRTUAL):
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
    """Takes one of ``_MAX_NUM_COMPILING`` locks in the file; where none is free, waits for a certain one. Locks of a process that ends are
    free.
    """
    first = os.getpid() % _MAX_NUM_COMPILING
    for place in (*range(first, _MAX_NUM_COMPILING), *range(first)):
        with contextlib.suppress(BlockingIOError, PermissionError):  # either says that another process has it
            fcntl.lockf(compiling, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
            break
    else:
        place = first
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
