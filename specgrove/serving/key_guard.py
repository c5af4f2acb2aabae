"""Asks for an API key before anything is done for a call. Stands first at a server's public address.

At the local address, which asks for none, clients may say for whose key they ask: so the chat page's requests count as their visitor's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from specgrove.errors import UnauthorizedError
from specgrove.serving.api_keys import ASKING_KEY, KEY_NAME_METADATA, ApiKeys
from specgrove.serving.call_guard import is_open
from specgrove.serving.status import abort

_METADATA_KEY = "authorization"
# Health checks of KServe's protocol.
_PROBES = ("/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady")


class KeyGuard(grpc.aio.ServerInterceptor):
    """Health checks and reflection need no key. Calls are served by the task that passes here, so they find theirs in ``ASKING_KEY``."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, or one that refuses."""
        method: str = handler_call_details.method
        if is_open(method) or method in _PROBES:
            return await continuation(handler_call_details)
        metadata = dict(handler_call_details.invocation_metadata or ())
        given = metadata.get(_METADATA_KEY)
        try:
            ASKING_KEY.set(self._keys.key_of(given if isinstance(given, str) else None))
        except UnauthorizedError as error:
            return _refusal(error)
        return await continuation(handler_call_details)


class NamedKeyGuard(grpc.aio.ServerInterceptor):
    """Calls that name a key have its limits; those that name none have none."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, or one that refuses where there is no such key (any more)."""
        name = dict(handler_call_details.invocation_metadata or ()).get(KEY_NAME_METADATA)
        if name is not None:
            try:
                ASKING_KEY.set(self._keys.named(str(name)))
            except UnauthorizedError as error:
                return _refusal(error)
        return await continuation(handler_call_details)


def _refusal(error: UnauthorizedError) -> grpc.RpcMethodHandler[Any, Any]:
    """For every kind of method: it answers with a status alone, and waits for no request."""

    async def refuse(requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await abort(context, error)

    return grpc.stream_unary_rpc_method_handler(refuse)
