"""Serves the page, on an address of its own: to browsers, or to a router that passes requests on."""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable

import gradio as gr
import uvicorn
from fastapi import FastAPI, Response

from specgrove.addresses import is_unix
from specgrove.client import AsyncClient
from specgrove.serving.listening import bound_socket
from specgrove.web.conversation import ChatOptions
from specgrove.web.page import FOLDER, THEME, make_page

_CLOSE_TIMEOUT_S = 1
_UPLOADS = "/gradio_api/upload"


def make_app(client: AsyncClient, defaults: ChatOptions) -> FastAPI:
    """The page as an application."""
    app = FastAPI(openapi_url=None)
    app.add_api_route(_UPLOADS, _no_uploads, methods=["POST"])
    gr.mount_gradio_app(
        app,
        make_page(client, defaults),
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
    client: AsyncClient, address: str, defaults: ChatOptions, on_listening: Callable[[str], None] = lambda address: None
) -> None:
    """Until SIGINT or SIGTERM. ``on_listening`` gets the bound address. Raises ``OSError`` where it can't be had."""
    bound = bound_socket(address)
    place = address if is_unix(address) else f"{address.rpartition(':')[0]}:{bound.getsockname()[1]}"
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app(client, defaults),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_CLOSE_TIMEOUT_S,
    )
    with contextlib.suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
        _Server(config, lambda: on_listening(place)).run([bound])


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()
