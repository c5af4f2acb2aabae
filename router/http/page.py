"""The chat page at ``/``: requests for it are passed on to its process, everything else is the API's. Used by ``app``.

What the page does, it does in that process. Here only bytes go through, so streams of others are not held up. Invariant: whoever leaves
the page ends the request that was passed on, and what the page asks of the router for it has the limits of the key that it came with.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import AsyncGenerator, Collection
from typing import TYPE_CHECKING

from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from router.http.page_notices import (
    FAILED,
    STARTING,
    WITHOUT_GRADIO,
    WITHOUT_GRADIO_IN_WORDS,
    WITHOUT_LOCAL_ADDRESS,
)
from router.http.page_process import PageProcess
from specgrove.serving.api_keys import ASKING_KEY, KEY_NAME_METADATA
from specgrove.serving.other_pages import REFUSAL, is_of_other_page

if TYPE_CHECKING:
    import httpcore

_API_FOLDER = "/v1/"
# Of one connection each; they are the router's and the page's own.
_HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection")
)
# The router's server writes its own.
_SERVER_HEADERS = frozenset((b"date", b"server"))
# Whoever sees the page may use it, and needs no keys that a browser must not tell it. For whose key it asks the router tells it.
_OWN_HEADERS = frozenset((b"authorization", b"content-length", KEY_NAME_METADATA.encode()))


def is_gradio_installed() -> bool:
    """Without importing it."""
    return importlib.util.find_spec("gradio") is not None


class PageOrApi:
    """Middleware that answers with the page what is not for the API."""

    def __init__(self, app: ASGIApp, *, page: ChatPage, api_paths: Collection[str]) -> None:
        self._app = app
        self._page = page
        self._api_paths = frozenset(api_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By the path alone."""
        if scope["type"] == "http" and not is_api_path(scope["path"], self._api_paths):
            request = Request(scope, receive)
            if self._page.is_for(request):
                response = await self._page.response(request)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_api_path(path: str, api_paths: Collection[str]) -> bool:
    """Whether it belongs to the API; what is in ``/v1/`` does even where there is no such path."""
    return path.startswith(_API_FOLDER) or path in api_paths


class ChatPage:
    """What is at ``/``: the page, or a word about why it is not there."""

    def __init__(self, process: PageProcess | None, *, has_gradio: bool) -> None:
        """Without a ``process`` there is no way to the router that needs neither a certificate nor a key."""
        self._process = process
        self._has_gradio = has_gradio
        self._connections: httpcore.AsyncConnectionPool | None = None

    def is_for(self, request: Request) -> bool:
        """Until a browser asks for ``/`` there is no page: probes of load balancers and scripts, which ask for it, too, start nothing."""
        if self._process is not None and self._process.is_running:
            return True
        is_asked = request.method == "GET" and request.url.path == "/"
        return is_asked and (_is_browser(request) or not self._has_gradio)

    async def response(self, request: Request) -> Response:
        """To a request that it ``is_for``. Starts the page's process where that is the first one."""
        if not self._has_gradio:
            return _notice(WITHOUT_GRADIO) if _is_browser(request) else PlainTextResponse(WITHOUT_GRADIO_IN_WORDS, 404)
        if self._process is None:
            return _notice(WITHOUT_LOCAL_ADDRESS)
        if is_of_other_page(request.method, request.headers):
            return Response(REFUSAL, 403)
        if not self._process.is_running:
            if self._process.has_failed:
                return _notice(FAILED, 503)
            self._process.start()
            return _notice(STARTING, 503)
        return await self._passed_on(request)

    async def close(self) -> None:
        """Ends the page's process."""
        if self._connections is not None:
            await self._connections.aclose()
        if self._process is not None:
            await self._process.stop()

    async def _passed_on(self, request: Request) -> Response:
        import httpcore  # comes with Gradio

        assert self._process is not None
        if self._connections is None:
            self._connections = httpcore.AsyncConnectionPool(uds=self._process.socket_path, max_connections=None)
        try:
            body = await request.body()
        except HTTPException as error:  # too long
            return Response(error.detail, error.status_code)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        stack = contextlib.AsyncExitStack()
        try:
            answer = await stack.enter_async_context(
                self._connections.stream(
                    request.method,
                    httpcore.URL(scheme=b"http", host=b"page", target=_target(request)),
                    headers=_headers_to_page(request),
                    content=body,
                )
            )
        except httpcore.NetworkError:
            await stack.aclose()
            return _notice(STARTING, 503)
        except httpcore.LocalProtocolError as error:
            await stack.aclose()
            return Response(f"the request can't be passed on: {error}", 400)
        except httpcore.ProtocolError:
            await stack.aclose()
            return _notice(FAILED, 503)
        response = StreamingResponse(_content(answer, stack), answer.status)
        dropped = _HOP_BY_HOP | _SERVER_HEADERS
        response.raw_headers = [(name, value) for name, value in answer.headers if name.lower() not in dropped]
        return response


async def _content(answer: httpcore.Response, stack: contextlib.AsyncExitStack) -> AsyncGenerator[bytes, None]:
    async with stack:
        async for piece in answer.aiter_stream():
            yield piece


def _is_browser(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _target(request: Request) -> bytes:
    path: bytes = request.scope["raw_path"]
    query: bytes = request.scope["query_string"]
    return path + b"?" + query if query else path


def _headers_to_page(request: Request) -> list[tuple[bytes, bytes]]:
    """What the browser has sent; the page must know how it is reached, because it writes addresses."""
    kept = [
        (name, value)
        for name, value in request.headers.raw
        if name not in _HOP_BY_HOP and name not in _OWN_HEADERS and not name.startswith(b"x-forwarded-")
    ]
    key = ASKING_KEY.get()
    key_name = [] if key is None else [(KEY_NAME_METADATA.encode(), key.name.encode())]
    return [*kept, *key_name, (b"x-forwarded-proto", request.scope["scheme"].encode())]


def _notice(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, {"cache-control": "no-store"})
