"""The process that makes masks: it has one vocabulary, and forks a process for each structure.

Started by ``llm_service.mask_processes``. A structure's process has the vocabulary at once. The kernel ends it where it takes more
processor time than it may, and it has no more memory than it may: a grammar can do what it likes. Invariant: all of them end when the
service does, however that happens.
"""

from __future__ import annotations

import contextlib
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
# Of what it has when it begins.
_MAX_MORE_BYTES = 1 << 30


def serve(control: socket.socket, tokenizer: Tokenizer) -> None:
    """Forks until the service closes its end, or ends. Each message has a socket, and is answered by ``NEWS``."""
    _ = tokenizer.token_trie
    gc.collect()
    gc.freeze()  # what is there now is shared with all that are forked
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake.fileno())
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            woken.recv(4096)
            _tell_ended(control)
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
                    serve_structure(Connection(fd), tokenizer)
                os._exit(0)
            os.close(fd)
            control.send(NEWS.pack(True, pid, 0))


def _tell_ended(control: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            control.send(NEWS.pack(False, *ended))


def serve_structure(connection: Connection, tokenizer: Tokenizer) -> None:
    """Answers until the service closes its end. Questions come first, then what may be told of nodes below roots."""
    opening: Opening = connection.recv()
    _limit_memory()
    compiler = GrammarCompiler(tokenizer)
    try:
        with _ended_after(_MAX_COMPILE_S, signal.ITIMER_PROF):
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


def _limit_memory() -> None:
    """What asks for more ends the process."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + _MAX_MORE_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)  # nobody may raise that one
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def main() -> None:
    """``python -m specgrove.structures.mask_server CONTROL_FD TOKENIZER_FD``: the second has the pickled tokenizer."""
    with os.fdopen(int(sys.argv[2]), "rb") as file:
        tokenizer = pickle.load(file)
    with contextlib.suppress(ConnectionError):  # the service has ended
        serve(socket.socket(fileno=int(sys.argv[1])), tokenizer)


if __name__ == "__main__":
    main()
