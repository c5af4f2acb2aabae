"""What is left of a request that fails where nobody foresaw it: a status, and a line in the log. Used by ``app``.

The web framework's own way comes behind all middleware: its answer would lack the headers without which browsers show a page no answer,
and nobody would count it.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.http.errors import INTERNAL_FAILURE
from router.request_ids import ids_under_way

logger = logging.getLogger(__name__)


class Unforeseen:
    """Middleware within the one that writes headers for browsers, and the one that counts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that has begun can't be another one: the server closes its connection."""
        has_begun = False

        async def noting(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            logger.exception("%s %r failed%s", scope.get("method"), scope.get("path"), ids_under_way().words_of_client)
            if has_begun:
                raise
            await INTERNAL_FAILURE.response()(scope, receive, send)
