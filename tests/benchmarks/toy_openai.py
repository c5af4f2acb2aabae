"""A server with OpenAI's completions API in this process, which does what a test's script says."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ToyServer:
    """Answers each request with these numbers of tokens, a chunk each; 0 is a chunk without text."""

    tokens_of_chunks: Sequence[int] = (1, 1, 1)
    tells_usage: str = "in chunks"
    """Or ``at the end``, or ``never``."""
    refusal: str | None = None
    breaks_off: bool = False
    requests: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its URL."""
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        lengths = [line for line in head.splitlines() if line.startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0].split(":")[1])) if lengths else b""
        with contextlib.suppress(ConnectionError):
            if head.startswith("get /v1/models "):
                self._whole(writer, 200, {"data": [{"id": "toy"}]})
            elif head.startswith("get /health "):
                self._whole(writer, 200, {})
            elif self.refusal is not None:
                self._whole(writer, 400, {"error": self.refusal})
            else:
                self.requests.append(json.loads(body))
                await self._stream(writer)
            await writer.drain()
            writer.close()

    def _whole(self, writer: asyncio.StreamWriter, status: int, content: object) -> None:
        text = json.dumps(content).encode()
        writer.write(f"HTTP/1.1 {status} Any\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        so_far = 0
        for number in self.tokens_of_chunks:
            so_far += number
            event: dict[str, object] = {"choices": [{"text": "x" * number}]}
            if self.tells_usage == "in chunks":
                event["usage"] = {"completion_tokens": so_far}
            await self._event(writer, json.dumps(event))
        if self.breaks_off:
            return
        if self.tells_usage != "never":
            await self._event(writer, json.dumps({"choices": [], "usage": {"completion_tokens": so_far}}))
        await self._event(writer, "[DONE]")
        writer.write(b"0\r\n\r\n")

    async def _event(self, writer: asyncio.StreamWriter, data: str) -> None:
        """In two pieces, as a network may bring it."""
        text = f"data: {data}\n\n".encode()
        for piece in (text[:3], text[3:]):
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
