"""Ways to ask a toy suite's router by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from router.config import HttpConfig
from specgrove.serving.api_keys import ApiKeys
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S

PROMPT = "Hello, tree"


def http_address(suite: ToySuite) -> str:
    assert suite.app.http is not None
    return suite.app.http.address


def http_suite(
    llm: ToyLlm | None = None,
    *,
    keys: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    tool_call_format: str = "auto",
    served_names: tuple[str, ...] = (),
    **settings: Any,
) -> contextlib.AbstractAsyncContextManager[ToySuite]:
    """A toy suite whose router speaks HTTP, too."""
    http = HttpConfig("127.0.0.1:0", origins, tool_call_format, served_names=served_names)
    return toy_suite(llm, http=http, api_keys=ApiKeys.of_texts(keys) if keys else None, **settings)


@contextlib.asynccontextmanager
async def api_of(suite: ToySuite, api_key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    url = f"http://{http_address(suite)}/v1"
    async with AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=LIMIT_S) as client:
        yield client


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def error(self) -> Any:
        """What it says is wrong."""
        assert set(self.json) == {"error"}
        return self.json["error"]


async def ask(
    suite: ToySuite,
    path: str,
    body: object = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    address: str | None = None,
) -> Reply:
    """A request as plain as can be: bytes are sent as they are, other bodies as JSON; to the API, or to another address."""
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    reader, writer = await opened(suite, path, content, method=method, headers=headers, address=address)
    async with asyncio.timeout(LIMIT_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        content = await reader.read()
    writer.close()
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return Reply(int(head[0].split()[1]), fields, content)


async def opened(
    suite: ToySuite,
    path: str,
    content: bytes,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    address: str | None = None,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which a request was sent; its end is for the caller."""
    host, port = (address or http_address(suite)).split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {
        "host": host,
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(content)),
        **(headers or {}),
    }
    lines = [f"{method or ('POST' if content else 'GET')} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items())]
    writer.write("\r\n".join([*lines, "", ""]).encode() + content)
    await writer.drain()
    return reader, writer


def text_of(seed: int = 0, num_tokens: int = 20, prompt: str = PROMPT) -> str:
    """The toy model's output."""
    return bytes(toy_output(list(prompt.encode()), num_tokens, seed)).decode()
