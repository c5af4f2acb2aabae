"""What never was a call: HTTP/2 frames of any kind and bytes at the gRPC ports, and bodies at the HTTP API."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

from hypothesis import strategies as st

from specgrove.addresses import is_unix, socket_path

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CONNECT_S = 5.0
_ANSWER_S = 2.0
_READ_S = 0.05
_MAX_READ_BYTES = 1 << 16

PATHS = (
    "/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize", "/v1/models", "/generate", "/health",
    "/metrics", "/nowhere",
)  # fmt: skip
_NAMES = (
    "model", "messages", "prompt", "input", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "stream",
    "logprobs", "top_logprobs", "seed", "tools", "tool_choice", "response_format", "stream_options", "logit_bias", "tokens",
    "text", "echo", "suffix", "best_of", "user", "metadata",
)  # fmt: skip


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """https://www.rfc-editor.org/rfc/rfc9113#section-4.1"""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


frames = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.sampled_from([0, 1, 2, 3, 5, 2**31 - 1, 2**31]),
    st.binary(max_size=40),
)
good_settings = frame(4, 0, 0, b"")
openings = st.sampled_from([PREFACE + good_settings, PREFACE, b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"])
byte_streams = st.builds(
    lambda opening, rest: opening + b"".join(rest), openings, st.lists(frames | st.binary(max_size=30), max_size=8)
)

_json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
_likely = st.sampled_from(
    [
        0,
        1,
        -1,
        8,
        1e99,
        "hi",
        [],
        {},
        ["a", "b"],
        [1, 2],
        [[1, 2]],
        [{"role": "user", "content": "hi"}],
        {"type": "json_object"},
    ]
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(_NAMES), _likely | _json_values, max_size=8).map(json.dumps),
    _json_values.map(json.dumps),
    st.text(max_size=40),
).map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40)


def connected(address: str) -> socket.socket:
    """To ``HOST:PORT`` or ``unix:/path``. Raises ``OSError``."""
    if is_unix(address):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(socket_path(address)))
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=_CONNECT_S)


def throw(address: str, content: bytes) -> None:
    """Sends bytes, and looks what comes, for a moment. The peer may close whenever it likes."""
    with contextlib.suppress(OSError), connected(address) as connection:
        connection.sendall(content)
        connection.settimeout(_READ_S)
        while connection.recv(_MAX_READ_BYTES):
            pass


def http_status(address: str, method: str, path: str, body: bytes) -> int | None:
    """Of one request; None where the connection ended without one, or the answer takes long."""
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with contextlib.suppress(OSError), connected(address) as connection:
        connection.settimeout(_ANSWER_S)
        connection.sendall(head.encode() + body)
        first = connection.recv(_MAX_READ_BYTES)
        words = first.split(b" ", 2)
        if len(words) > 1 and words[1].isdigit():
            return int(words[1])
    return None
