"""The HTTP server: uvicorn in the router's process, on its event loop. Owned by ``router.app``.

Why not beside it: a piece of an output then takes no second way through gRPC, and events cost less than gRPC's messages do
(``benchmarks/http.py``). Requests are bounded, and long bodies are converted in a thread, so that the loop is nobody's for long.

Order of the end: the gRPC server drains, and while it does ``RouterCalls`` refuses new requests; what is under way ends with the
drain, and its connection with it; then ``stop`` closes what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.http.protocol import HttpProtocol
from specgrove.addresses import is_unix, socket_path
from specgrove.serving.followed_certificates import FollowingContext
from specgrove.serving.listening import bound_socket
from specgrove.serving.tls import TlsFiles

logger = logging.getLogger(__name__)

# What answers take that have ended with the drain: their last bytes.
_CLOSE_TIMEOUT_S = 1
_KEEP_ALIVE_S = 75
_BACKLOG = 2048


class HttpServer:
    """One HTTP server."""

    def __init__(self, address: str, app: ASGIApp, tls: TlsFiles | None, what: str = "HTTP") -> None:
        """``address`` is ``host:port`` or ``unix:/path``; ``what`` it serves, for the log."""
        self.address = address
        self._what = what
        self._socket: socket.socket | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closing = _ClosingConnections(app)
        self._server = _Uvicorn(_config_of(self._closing, tls))

    async def start(self) -> str:
        """Listens, and returns the bound address. Raises ``OSError`` when it can't be had."""
        self._socket = bound_socket(self.address)
        if not is_unix(self.address):
            self.address = f"{self.address.rpartition(':')[0]}:{self._socket.getsockname()[1]}"
        self._serving = asyncio.create_task(self._server.serve([self._socket]))
        listening = asyncio.create_task(self._server.is_listening.wait())
        await asyncio.wait({listening, self._serving}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if self._serving.done():
            self._serving.result()
        logger.info("%s at %s", self._what, self.address)
        return self.address

    def drain(self) -> None:
        """From now on a connection ends with its answer, so that clients make their next one elsewhere. New ones are taken still."""
        self._closing.is_draining = True
        for connection in self._server.server_state.connections:
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not cycle.response_complete:
                cycle.keep_alive = False

    async def stop(self) -> None:
        """Closes; what is under way has a second to end. Safe to call twice."""
        serving, self._serving = self._serving, None
        if serving is None:
            return
        self._server.should_exit = True
        await serving
        # uvicorn cancels what takes longer, and doesn't wait for it.
        await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)
        if is_unix(self.address):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(socket_path(self.address))  # noqa: PTH108


class _ClosingConnections:
    """Tells clients of a server that drains not to send another request over the same connection."""

    def __init__(self, app: ASGIApp) -> None:
        self.is_draining = False
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_closing(message: Message) -> None:
            if self.is_draining and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await self._app(scope, receive, send_closing)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to the router, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config_of(app: ASGIApp, tls: TlsFiles | None) -> uvicorn.Config:
    # It logs each request that is no HTTP, and each client that has gone amid an answer. What fails in it, ``app`` logs.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        # Whoever is behind a proxy counts as the proxy, as with gRPC.
        proxy_headers=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_CLOSE_TIMEOUT_S,
        ssl_context_factory=None if tls is None else lambda *_: FollowingContext(tls),
    )
