"""A port of its own for metrics, in a thread: the model services', whose event loops and engines it leaves alone."""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from specgrove.serving.listening import check_can_listen

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def metrics_server(address: str | None, registry: CollectorRegistry) -> Iterator[None]:
    """Serves ``http://address/metrics`` within the block; nothing where there is no address. Raises ``OSError``."""
    if address is None:
        yield
        return
    check_can_listen(address)
    host, _, port = address.rpartition(":")
    server_type = _ServerOfIpv6 if host.startswith("[") else _Server
    with server_type((host.strip("[]"), int(port)), _Handler) as server:
        app = make_wsgi_app(registry)

        def in_plain_text(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            # As OpenMetrics prometheus_client 0.22 to 0.26 spoils names with colons, vLLM's. All scrapers read plain text.
            environ.pop("HTTP_ACCEPT", None)
            content: Iterable[bytes] = app(environ, start_response)
            return content

        server.set_app(in_plain_text)
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        logger.info("metrics at http://%s/metrics", address)
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a scraper that reads slowly holds up no end

    def server_bind(self) -> None:
        """As a plain server: one of HTTP asks for its own name, for which networks without names take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _ServerOfIpv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *words: object) -> None:
        """Scrapes come every few seconds: no lines."""
