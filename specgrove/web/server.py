"""Serves the page, on an address of its own: to browsers, or to a router that passes requests on."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import PlainTextResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from specgrove.addresses import is_unix
from specgrove.serving.listening import bound_socket
from specgrove.serving.other_pages import REFUSAL, is_of_other_page
from specgrove.web.conversation import ChatOptions
from specgrove.web.page import FOLDER, THEME, ClientOf, make_page
from specgrove.web.quick_gradio import gr

_CLOSE_TIMEOUT_S = 1
_UPLOADS = "/gradio_api/upload"


class OwnPagesOnly:
    """Middleware that refuses what a browser asks for a page of another site or port."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """By the headers alone."""
        if scope["type"] == "http" and is_of_other_page(scope["method"], Headers(scope=scope)):
            await PlainTextResponse(REFUSAL, 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def make_app(client_of: ClientOf, defaults: ChatOptions) -> FastAPI:
    """The page as an application."""
    app = FastAPI(openapi_url=None)
    app.add_middleware(OwnPagesOnly)
    app.add_api_route(_UPLOADS, _no_uploads, methods=["POST"])
    gr.mount_gradio_app(
        app,
        make_page(client_of, defaults),
        path="/",
        theme=THEME,
        css_paths=FOLDER / "style.css",
        js=(FOLDER / "page.js").read_text(),
        favicon_path=str(FOLDER / "favicon.svg"),
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        show_error=True,
    )
    return app


def _no_uploads() -> Response:
    """Gradio would keep the files of anybody."""
    return Response("this page takes no files", 403)


def serve_page(
    client_of: ClientOf, address: str, defaults: ChatOptions, on_listening: Callable[[str], None] = lambda address: None
) -> None:
    """Until SIGINT or SIGTERM. ``client_of`` is as in ``make_page``. ``on_listening`` gets the bound address.

    Raises ``OSError`` where it can't be had.
    """
    bound = bound_socket(address)
    place = address if is_unix(address) else f"{address.rpartition(':')[0]}:{bound.getsockname()[1]}"
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app(client_of, defaults),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_TIMEOUT_S,
    )
    # uvicorn raises a signal again when it has ended. SIGTERM would then end the process before the suite behind the page is stopped.
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _Server(config, lambda: on_listening(place)).run([bound])
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()
