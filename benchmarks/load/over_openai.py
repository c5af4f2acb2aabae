"""Any server with OpenAI's HTTP API, asked for streams at ``/v1/completions`` by a client that does as little as it can.

A chunk may hold several tokens. Each token's time is that of the chunk that it came with, as over gRPC. How many came is told by the usage
so far in each chunk (``continuous_usage_stats``, which vLLM and SpecGrove have). Where chunks don't tell, the number at the end of the
stream is shared among the chunks evenly; where there is none either, a chunk is taken for a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.load.asking import Asking, AskingError

_MAX_LINE_BYTES = 2**20
_NUM_SHOWN = 300  # characters of a refusal


class OpenAiServer:
    """Where a server is. A connection for each request."""

    def __init__(self, url: str) -> None:
        """``http://HOST:PORT``, with or without ``/v1``. Raises ``AskingError``."""
        try:
            parts = urlsplit(url)
            port = 80 if parts.port is None else parts.port
        except ValueError as error:
            raise AskingError(f"{url}: {error}") from error
        if parts.scheme != "http" or parts.hostname is None or parts.query or parts.fragment:
            raise AskingError(f"{url!r} is not like http://127.0.0.1:8000/v1")
        self._host, self._port, self._netloc = parts.hostname, port, parts.netloc
        self._base = parts.path.rstrip("/").removesuffix("/v1")
        self.url = f"http://{parts.netloc}{self._base}"

    async def model(self) -> str:
        """The name of the first model there. Raises ``AskingError``."""
        text = b"".join([part async for part in self._answer("GET", "/v1/models", None)])
        try:
            return str(json.loads(text)["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise AskingError(f"{self.url} lists no model") from error

    async def is_healthy(self) -> bool:
        """Whether it answers at ``/health``."""
        try:
            async for _ in self._answer("GET", "/health", None):
                pass
        except AskingError:
            return False
        return True

    async def events(self, path: str, body: dict[str, object]) -> AsyncIterator[dict[str, Any]]:
        """Of a stream, up to ``[DONE]``. Raises ``AskingError``."""
        rest = b""
        # The connection is closed at the end, not when the collector comes by.
        async with contextlib.aclosing(self._answer("POST", path, json.dumps(body).encode())) as parts:
            async for part in parts:
                *lines, rest = (rest + part).split(b"\n")
                for data in (line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")):
                    if data == b"[DONE]":
                        return
                    event: dict[str, Any] = json.loads(data)
                    if "error" in event:
                        raise AskingError(f"{self.url} says amid its answer: {event['error']}")
                    yield event
        raise AskingError(f"{self.url} ended a stream before its end")

    async def _answer(self, method: str, path: str, body: bytes | None) -> AsyncGenerator[bytes]:
        """The body of the answer as it comes."""
        try:
            reader, writer = await asyncio.open_connection(self._host, self._port, limit=_MAX_LINE_BYTES)
        except OSError as error:
            raise AskingError(f"nobody answers at {self.url}: {error}") from error
        try:
            head = f"{method} {self._base}{path} HTTP/1.1\r\nhost: {self._netloc}\r\nconnection: close\r\n"
            if body is not None:
                head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            writer.write(head.encode() + b"\r\n" + (body or b""))
            status, headers = await _read_head(reader)
            parts = _body_parts(reader, headers)
            if status != 200:
                text = b"".join([part async for part in parts]).decode(errors="replace")
                raise AskingError(f"{self.url}{path} answered {status}: {text[:_NUM_SHOWN]}")
            async for part in parts:
                yield part
        except (OSError, EOFError, ValueError) as error:
            raise AskingError(f"{self.url}{path} broke off: {error or type(error).__name__}") from error
        finally:
            writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, dict[bytes, bytes]]:
    """The status and the headers, by their names in small letters."""
    status_line, *lines = (await reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
    headers = dict(line.split(b":", 1) for line in lines)
    return int(status_line.split()[1]), {name.lower(): value.strip().lower() for name, value in headers.items()}


async def _body_parts(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> AsyncIterator[bytes]:
    """As they come: chunks, so many bytes, or all up to the end of the connection."""
    if headers.get(b"transfer-encoding") == b"chunked":
        while num_bytes := int((await reader.readline()).split(b";")[0], 16):
            yield await reader.readexactly(num_bytes)
            await reader.readexactly(len(b"\r\n"))
    elif b"content-length" in headers:
        yield await reader.readexactly(int(headers[b"content-length"]))
    else:
        while part := await reader.read(_MAX_LINE_BYTES):
            yield part


def times_of_tokens(chunks: Sequence[tuple[float, int | None]], num_tokens: int | None) -> list[float]:
    """A time for each token.

    ``chunks`` are those with an output, each with its time and the number of tokens of the output so far, where that was told.
    ``num_tokens`` is what the stream's end told.
    """
    if chunks and all(so_far is not None for _, so_far in chunks):
        times_s: list[float] = []
        for time_s, so_far in chunks:
            assert so_far is not None
            times_s += [time_s] * (so_far - len(times_s))
        return times_s
    if num_tokens is None:
        return [time_s for time_s, _ in chunks]
    return [chunks[number * len(chunks) // num_tokens][0] for number in range(num_tokens if chunks else 0)]


class OverOpenAi(Asking):
    """One such server, with one model."""

    is_ours = False

    def __init__(self, server: OpenAiServer, model: str, prompts: Sequence[list[int]], name: str) -> None:
        super().__init__(prompts)
        self.name = name
        self._server, self._model = server, model

    @classmethod
    async def at(cls, url: str, prompts: Sequence[list[int]]) -> Self:
        """A server that runs already. Raises ``AskingError``."""
        server = OpenAiServer(url)
        return cls(server, await server.model(), prompts, server.url)

    async def _token_times_s(self, prompt: list[int], num_tokens: int, salt: str) -> list[float]:
        body: dict[str, object] = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": num_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "cache_salt": salt,
        }
        chunks: list[tuple[float, int | None]] = []
        total: int | None = None
        async for event in self._server.events("/v1/completions", body):
            so_far = (event.get("usage") or {}).get("completion_tokens")
            if any(choice.get("text") or so_far is not None for choice in event.get("choices", ())):
                chunks.append((self._now_s(), so_far))
            total = so_far if so_far is not None else total
        return times_of_tokens(chunks, total)
