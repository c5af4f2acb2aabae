"""HTTP on one connection: uvicorn's protocol on httptools, with a bound for heads, and without changes of the protocol.

Used by ``server``. Java's client, among others, offers HTTP/2 in every first request. A server may ignore that; the parser can't, and
would take the request's body for the other protocol. Clients of HTTP/1.0, nginx among them, know no chunks: what is streamed to them ends
with the connection.
"""

from __future__ import annotations

import functools
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
_OF_UPGRADES = (b"upgrade", b"http2-settings")


class HttpProtocol(HttpToolsProtocol):
    """Ends a connection on which more comes than a head may have, and none of it is a body's. The parser has no bound of its own."""

    _num_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Feeds the parser."""
        self._unset_keepalive_if_required()
        self._num_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._num_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the head of a request has at most {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        """Begins the request, unless it has to be read again."""
        self._num_bytes = 0
        if self.parser.should_upgrade():
            return
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = functools.partial(_send_unchunked, self.cycle)  # type: ignore[method-assign]

    def on_body(self, body: bytes) -> None:
        """A part of it."""
        self._num_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of the request."""
        self._num_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _stay(self, rest: bytes) -> None:
        """Reads the request again, without the offer. ``rest`` is what came behind its head."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("this is no proxy")
            return
        fields = [(name, _without_upgrade(value) if name == b"connection" else value) for name, value in self.headers]
        lines = [b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % field for field in fields if field[0] not in _OF_UPGRADES]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*lines, b"", rest]))


async def _send_unchunked(cycle: RequestResponseCycle, message: Any) -> None:
    """As uvicorn's, without chunks where the answer's length isn't told: the connection is closed behind it."""
    names = [name.lower() for name, _ in message.get("headers", ())]
    if message["type"] == "http.response.start" and b"content-length" not in names:
        cycle.chunked_encoding = False
    elif message["type"] == "http.response.body" and not cycle.chunked_encoding and not cycle.expected_content_length:
        cycle.expected_content_length = len(message.get("body", b""))
    await RequestResponseCycle.send(cycle, message)


def _without_upgrade(connection: bytes) -> bytes:
    words = [word.strip() for word in connection.split(b",")]
    return b", ".join(word for word in words if word.lower() not in _OF_UPGRADES)
