"""The process that forks mask makers, and streams of messages to what it has forked. Used by ``MaskProcesses``, on its thread's event loop.

``specgrove.structures.mask_server`` is the other side. Invariant: nothing here waits for anything but the end of what was killed. There is
room for all messages that the server has not read: they are two for each process, of which there are few.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from specgrove.structures.mask_server import ASKED, NEWS
from specgrove.tokenizer import Tokenizer

_LEN = struct.Struct("!i")  # as ``multiprocessing.connection`` writes it
_READ_BYTES = 1 << 20
# Who forks has no other threads.
_ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class MessageStream:
    """Pickled messages over a socket, both ways."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ours: socket.socket, take: Callable[[Any], None]) -> None:
        ours.setblocking(False)
        self._loop = loop
        self._socket = ours
        self._take = take
        self._read = bytearray()
        self._to_write = bytearray()
        self.is_closed = False
        loop.add_reader(ours, self._can_read)

    def send(self, message: object) -> None:
        """Later, where the other side does not read. Nothing, where it is gone: that is told elsewhere."""
        if self.is_closed:
            return
        content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        was_empty = not self._to_write
        self._to_write += _LEN.pack(len(content)) + content
        if was_empty:
            self._can_write()
            if self._to_write and not self.is_closed:
                self._loop.add_writer(self._socket, self._can_write)

    def close(self) -> None:
        """What is still to be sent is not."""
        if not self.is_closed:
            self.is_closed = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _can_write(self) -> None:
        try:
            del self._to_write[: self._socket.send(self._to_write)]
        except BlockingIOError:
            return
        except OSError:  # its end is told elsewhere
            self.close()
            return
        if not self._to_write:
            self._loop.remove_writer(self._socket)

    def read_rest(self) -> None:
        """What a process that has ended had sent."""
        while not self.is_closed and self._can_read():
            pass

    def _can_read(self) -> bool:
        try:
            content = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            content = b""
        if not content:
            self._loop.remove_reader(self._socket)
            return False
        self._read += content
        while len(self._read) >= _LEN.size:
            end = _LEN.size + _LEN.unpack_from(self._read)[0]
            if len(self._read) < end:
                break
            content = bytes(self._read[_LEN.size : end])
            del self._read[:end]
            self._take(pickle.loads(content))
        return True


class ForkServer:
    """The process that forks them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tokenizer: Tokenizer,
        take_news: Callable[[bool, int, int], None],
        lose: Callable[[], None],
    ) -> None:
        """Raises ``OSError``."""
        self._loop = loop
        self._take_news = take_news
        self._lose = lose
        self.has_forked = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            content = os.memfd_create("tokenizer")
            with theirs, os.fdopen(content, "wb") as file:
                pickle.dump(tokenizer, file)
                file.flush()
                file.seek(0)
                # Ends with this thread.
                command = [
                    sys.executable, "-m", "specgrove.suite.supervised", str(os.getpid()), "specgrove.structures.mask_server",
                    str(theirs.fileno()), str(content),
                ]  # fmt: skip
                self._process = subprocess.Popen(
                    command,
                    env=os.environ | _ONE_THREAD,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno(), content],
                    start_new_session=True,
                )
        except BaseException:
            self._control.close()
            theirs.close()
            raise
        self._control.setblocking(False)
        loop.add_reader(self._control, self._can_read)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def fork(self, take: Callable[[Any], None]) -> MessageStream:
        """A new process's stream. Its beginning and its end are told later. Raises ``OSError``."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [ASKED.pack(0)], [theirs.fileno()])
            except BaseException:
                ours.close()
                raise
        return MessageStream(self._loop, ours, take)

    def release(self, pid: int) -> None:
        """The id of a process of which it was told that it has ended: it may be another's from now on."""
        with contextlib.suppress(OSError):  # it has ended, too
            self._control.send(ASKED.pack(pid))

    def end(self) -> None:
        """With all that it has forked."""
        self._loop.remove_reader(self._control)
        self._control.close()
        self._process.kill()
        self._process.wait()

    def _can_read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read()

    def _read(self) -> None:
        with contextlib.suppress(ConnectionError):  # it has ended before it read all
            if news := self._control.recv(NEWS.size):
                has_begun, pid, status = NEWS.unpack(news)
                self.has_forked |= has_begun
                self._take_news(has_begun, pid, status)
                return
        self._lose()
