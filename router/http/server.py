"""The HTTP server: uvicorn in the router's process, on its event loop. Owned by ``router.app``.

Why not beside it: a piece of an output then takes no second way through gRPC, and events cost less than gRPC's messages do
(``benchmarks/http.py``). Requests are bounded, and long bodies are converted in a thread, so that the loop is nobody's for long.

Order of the end: the gRPC server drains, and while it does ``RouterCalls`` refuses new requests; what is under way ends with the
drain; then ``stop`` closes what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from router.http.protocol import HttpProtocol
from specgrove.addresses import is_unix, socket_path
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
        self._server = _Uvicorn(_config_of(app, tls))

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
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.private_key,
        ssl_ca_certs=None if tls is None or tls.ca is None else str(tls.ca),
        ssl_cert_reqs=ssl.CERT_NONE if tls is None or tls.ca is None else ssl.CERT_REQUIRED,
    )
