"""TCP ways between processes that can be made bad: slow, stalled, cut, half-closed. Owned by the fleet, harmed by its faults.

Invariant: bytes that go through are in order and unchanged; a link loses connections, never parts of what it delivers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_MAX_READ_BYTES = 1 << 16


class Link:
    """One listener; each connection to it is joined with one to ``target`` (``HOST:PORT``)."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._ways: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_flowing = asyncio.Event()
        self._is_flowing.set()
        self._server: asyncio.Server | None = None
        self.delay_s = 0.0
        """What each piece is late by."""
        self.address: str

    async def start(self) -> str:
        """Its own address."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self.address

    def stall(self) -> None:
        """Nothing gets through till ``flow``; connections stay."""
        self._is_flowing.clear()

    def flow(self) -> None:
        """As before all faults."""
        self.delay_s = 0.0
        self._is_flowing.set()

    def cut(self) -> None:
        """Resets all connections."""
        for way in self._ways:
            for writer in way:
                _reset(writer)

    def half_close(self) -> None:
        """Tells one side of each connection that the other has nothing more to say."""
        for _, target in self._ways:
            with contextlib.suppress(OSError, RuntimeError):
                target.write_eof()

    async def close(self) -> None:
        """Cuts, and listens no more."""
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            target_reader, target_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:  # nobody listens there: its process is gone
            _reset(writer)
            return
        way = (writer, target_writer)
        self._ways.add(way)
        try:
            await asyncio.gather(self._pump(reader, target_writer), self._pump(target_reader, writer))
        except (OSError, RuntimeError):  # cut, or more to say on a way that was half-closed
            pass
        except asyncio.CancelledError:  # asyncio would tell of a task that ends so
            pass
        finally:
            self._ways.discard(way)
            for end in way:
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_MAX_READ_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._is_flowing.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Without a farewell: what was not delivered yet is lost, and the peer is told so by TCP."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
