"""The connections of the Python clients: their channels, whether they are closed, and what gRPC's failures mean. Used by ``client``.

Invariants: whatever happens to a call, a ``SpecGroveError`` says so, and no other exception; but a task that is cancelled stays cancelled.
After a connection that couldn't be made the certificates of now are taken; calls that are under way on another one go on there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import cast

import grpc

from specgrove.addresses import checked_target, grpc_target, stays_on_this_machine
from specgrove.client import forks
from specgrove.client.texts import named
from specgrove.errors import SessionClosedError, SpecGroveError, UnavailableError
from specgrove.serving.address import client_channel_options
from specgrove.serving.status import error_from_rpc, is_not_connected
from specgrove.serving.tls import TlsFiles, channel_credentials
from specgrove.serving.watched_files import WatchedFiles
from specgrove.v1 import router_pb2_grpc

Metadata = tuple[tuple[str, str], ...]


class Connection:
    """A ``Client``'s connection: one channel, which threads share."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        """Raises ``ValueError`` and ``OSError`` where the address or the files can't be used."""
        self._target, self._files = checked_target(address), _watched(tls)
        self._closed = threading.Event()
        self.was_reached = False
        """Whether anybody ever answered at the address."""
        self._opening = threading.Lock()
        self._channels: list[grpc.Channel] = []
        self._credentials: grpc.ChannelCredentials | None = None
        self._router = self._open()

    @contextlib.contextmanager
    def router(self, *, is_stream: bool = False) -> Iterator[router_pb2_grpc.RouterServiceStub]:
        """The stub for one call."""
        if self._closed.is_set():
            raise _closed_error()
        try:
            with forks.of_process.call(is_stream=is_stream):
                yield self._router
            self.was_reached = True
        except grpc.RpcError as error:
            # What plain stubs raise has the methods of AioRpcError, but no type in common with it.
            status = cast(grpc.aio.AioRpcError, error)
            if status.code() is grpc.StatusCode.CANCELLED and not self._closed.is_set():
                raise _cancelled_error(status) from error
            if is_not_connected(status.details() or ""):
                self._renew()
            else:
                self.was_reached = True
            raise _failure(status) from error
        except ValueError as error:
            # So gRPC says that another thread has closed the channel meanwhile.
            if not self._closed.is_set():
                raise
            raise _closed_error() from error

    def wait(self, seconds: float) -> None:
        """Before the next try; not longer than until it is closed."""
        self._closed.wait(seconds)

    def close(self) -> None:
        """Cancels what is under way. Harmless when called again."""
        with self._opening:
            self._closed.set()
        for channel in self._channels:
            channel.close()

    def _open(self) -> router_pb2_grpc.RouterServiceStub:
        options = client_channel_options()
        if self._files is None:
            channel = grpc.insecure_channel(grpc_target(self._target), options=options)
        else:
            self._credentials = self._files.newest()
            channel = grpc.secure_channel(grpc_target(self._target), self._credentials, options=options)
        self._channels.append(channel)
        return router_pb2_grpc.RouterServiceStub(channel)

    def _renew(self) -> None:
        with self._opening:
            if self._files is not None and self._files.newest() is not self._credentials and not self._closed.is_set():
                self._router = self._open()


class AsyncConnection:
    """An ``AsyncClient``'s: a channel for each event loop that it is used in, because channels can't change theirs."""

    def __init__(self, address: str, tls: TlsFiles | None) -> None:
        """As ``Connection``. No loop needs to run yet."""
        self._target, self._files = checked_target(address), _watched(tls)
        self._pid = os.getpid()  # of the process that the channels are of
        self._is_closed = False
        self.was_reached = False
        """As ``Connection.was_reached``."""
        self._channels: dict[asyncio.AbstractEventLoop, _LoopChannels] = {}
        self._waits: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @contextlib.contextmanager
    def router(self) -> Iterator[router_pb2_grpc.RouterServiceAsyncStub]:
        """The stub for one call, in the running loop."""
        if self._is_closed:
            raise _closed_error()
        forks.of_process.check_async_call()
        try:
            yield router_pb2_grpc.RouterServiceStub(self._channels_here().current)
            self.was_reached = True
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED and not self._is_closed:
                raise _cancelled_error(error) from error
            if is_not_connected(error.details() or ""):
                if not self._is_closed:
                    self._channels_here().renew()
            else:
                self.was_reached = True
            raise _failure(error) from error
        except asyncio.CancelledError:
            # So calls end, too, whose channel is closed.
            task = asyncio.current_task()
            if task is None or task.cancelling() or not self._is_closed:
                raise
            raise _closed_error() from None

    async def wait(self, seconds: float) -> None:
        """Before the next try; not longer than until it is closed."""
        closed = asyncio.Event()
        self._waits[closed] = asyncio.get_running_loop()
        if self._is_closed:  # while the answer to the last try was on its way: nobody would end this wait
            closed.set()
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(closed.wait(), seconds)
        finally:
            del self._waits[closed]

    async def close(self) -> None:
        """Cancels what is under way. Harmless when called again, and in a forked process, whose channels are the other one's."""
        self._is_closed = True
        if self._channels and os.getpid() != self._pid:
            return
        for closed, loop in list(self._waits.items()):
            with contextlib.suppress(RuntimeError):  # a loop that has ended
                loop.call_soon_threadsafe(closed.set)
        channels, self._channels = self._channels, {}
        running = asyncio.get_running_loop()
        for loop, of_loop in channels.items():
            if loop is running:
                await of_loop.close()
            elif loop.is_running():
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(of_loop.close(), loop))

    def _channels_here(self) -> _LoopChannels:
        """Loops run in threads of their own, so the dictionary changes in steps that each are whole."""
        loop = asyncio.get_running_loop()
        found = self._channels.get(loop)
        if found is None:
            for ended in [known for known in list(self._channels) if known.is_closed()]:
                self._channels.pop(ended, None)  # nothing can be done any more with its channels
            if not self._channels:
                self._pid = os.getpid()
            found = self._channels[loop] = _LoopChannels(self._target, self._files)
        return found


class _LoopChannels:
    """Those of one event loop: the current one, and those before it, on which calls may be under way still."""

    def __init__(self, target: str, files: WatchedFiles[grpc.ChannelCredentials] | None) -> None:
        self._target, self._files = target, files
        self._credentials: grpc.ChannelCredentials | None = None
        self._earlier: list[grpc.aio.Channel] = []
        self.current = self._open()
        forks.of_process.opened_async(self)

    def renew(self) -> None:
        if self._files is not None and self._files.newest() is not self._credentials:
            self._earlier.append(self.current)
            self.current = self._open()

    async def close(self) -> None:
        for channel in (*self._earlier, self.current):
            await channel.close()
        forks.of_process.closed_async(self)

    def _open(self) -> grpc.aio.Channel:
        options = client_channel_options()
        if self._files is None:
            return grpc.aio.insecure_channel(grpc_target(self._target), options=options)
        self._credentials = self._files.newest()
        return grpc.aio.secure_channel(grpc_target(self._target), self._credentials, options=options)


def metadata_of(api_key: str | None) -> Metadata:
    """What goes with every call."""
    if api_key is None:
        return ()
    if not isinstance(api_key, str) or not re.fullmatch(r"[!-~]+", api_key):
        # Not shown: it is a secret, even where it is wrong.
        raise ValueError("an API key must be printable ASCII characters without spaces")
    return (("authorization", f"Bearer {api_key}"),)


def warn_of_clear(addresses: Sequence[str]) -> None:
    """Warns of an API key on a connection without TLS, where others may listen."""
    if far := [address for address in addresses if not stays_on_this_machine(address)]:
        warnings.warn(f"the API key goes to {', '.join(far)} in clear: connect by TLS", stacklevel=3)


def _watched(tls: TlsFiles | None) -> WatchedFiles[grpc.ChannelCredentials] | None:
    if tls is None:
        return None
    if not isinstance(tls, TlsFiles):
        raise ValueError(f"tls must be TlsFiles, e.g. TlsFiles(ca=Path('ca.pem')), got {named(tls)}")
    return WatchedFiles(tls.paths, lambda: channel_credentials(tls))


def _failure(status: grpc.aio.AioRpcError) -> SpecGroveError:
    details = status.details() or ""
    if is_not_connected(details) and "WRONG_VERSION_NUMBER" in details:  # how OpenSSL reads what is not encrypted
        return UnavailableError(f"{details}; the router speaks in clear, leave out tls")
    return error_from_rpc(status)


def _cancelled_error(status: grpc.aio.AioRpcError) -> UnavailableError:
    """Nobody cancelled the call here: a proxy did, or a router that took the client for gone when their link was half-closed."""
    return UnavailableError(f"the call was cancelled at its other end: {status.details()}")


def _closed_error() -> SessionClosedError:
    return SessionClosedError("this client is closed")
