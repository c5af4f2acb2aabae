"""An HTTP API that is made up: each body's ``user`` says what goes wrong, and how often."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any


class FakeApi(http.server.ThreadingHTTPServer):
    """Remembers the bodies it got. ``blocked`` holds back the answers of those who ask for "block", until it is set."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.bodies: list[dict[str, Any]] = []
        self.blocked = threading.Event()
        self.tries: Counter[str] = Counter()
        self.keys: list[str | None] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeApi

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("authorization"))
        self._send(200, {"data": [{"id": "fake"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        wish = body.get("user", "")
        self.server.tries[wish] += 1
        if wish == "block":
            self.server.blocked.wait()
        if wish == "hang up":
            self.close_connection = True
            return
        if wish == "wrong":
            self._send(400, {"error": {"message": "temperature: must be in [0, 100]", "type": "invalid_request_error"}})
        elif wish == "full once" and self.server.tries[wish] == 1:
            self._send(429, {"error": {"message": "the queue is full"}}, {"retry-after-ms": "1"})
        else:
            self._send(200, {"id": f"cmpl-{self.path}", "choices": [{"text": body.get("prompt")}]})

    def _send(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def running_api(tls: ssl.SSLContext | None = None) -> Iterator[FakeApi]:
    with FakeApi(tls) as api:
        thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield api
        finally:
            api.blocked.set()
            api.shutdown()
            thread.join()
