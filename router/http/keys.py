"""API keys by HTTP. Used by ``app``.

Browsers ask people for a name and a password where the chat page is guarded: any name, and a key as the password.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.http.errors import failure_of
from specgrove.errors import UnauthorizedError
from specgrove.serving.api_keys import ASKING_KEY, ApiKeys
from specgrove.serving.key_file import ApiKey

_ASK_FOR_PASSWORD = {
    "www-authenticate": 'Basic realm="SpecGrove: any name, an API key as the password", charset="UTF-8"'
}


class KeyCheck:
    """Middleware that lets requests pass that carry a key. They find it in ``ASKING_KEY``."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: ApiKeys,
        open_paths: Collection[str],
        is_page: Callable[[str], bool],
        headers_of: Callable[[ApiKey], Mapping[str, str]],
    ) -> None:
        """``open_paths`` need no key. ``is_page`` says whether a path is the chat page's.

        ``headers_of`` are those of every answer to a key.
        """
        self._app = app
        self._open_paths = frozenset(open_paths)
        self._is_page = is_page
        self._keys = keys
        self._headers_of = headers_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers others with 401."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        authorization = Headers(scope=scope).get("authorization")
        # A browser sends passwords along with whatever any site's page asks of the API, so there they don't count.
        is_page = self._is_page(scope["path"])
        try:
            key = self._keys.key_of(_as_bearer(authorization) if is_page else authorization)
        except UnauthorizedError as error:
            refusal = PlainTextResponse(str(error), 401, _ASK_FOR_PASSWORD) if is_page else failure_of(error).response()
            await refusal(scope, receive, send)
            return
        ASKING_KEY.set(key)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers_of(key))
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _as_bearer(authorization: str | None) -> str | None:
    """A password of HTTP's Basic scheme as a key; all else as it is."""
    scheme, _, credentials = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        password = base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return None
    return f"Bearer {password.decode(errors='replace')}"
