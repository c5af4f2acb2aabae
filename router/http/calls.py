"""The router's service as HTTP calls it: the same methods that gRPC calls, in the same process. Used by ``app`` and ``outputs``.

Does for HTTP what ``specgrove.serving.call_guard`` does for gRPC. Invariant: a router that drains takes no new calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from router.http.tool_calls import ToolCallFormat, format_of
from router.http.trace_headers import Metadata, trace_headers
from router.servicer import RouterServicer
from specgrove.errors import UnavailableError
from specgrove.v1 import router_pb2


class RouterCalls:
    """One per HTTP server."""

    def __init__(
        self,
        servicer: RouterServicer,
        is_serving: Callable[[], bool],
        is_draining: Callable[[], bool],
        tool_call_format: str,
    ) -> None:
        """``tool_call_format`` is a name, or ``auto``."""
        self._servicer = servicer
        self._tool_call_format = tool_call_format
        self._is_draining = is_draining
        self.is_serving = is_serving
        """Whether requests are served now, as gRPC's health service says it."""

    async def generate(
        self, request: router_pb2.GenerateRequest, peer: str
    ) -> AsyncGenerator[router_pb2.GenerateResponse, None]:
        """Streams one output; ``peer`` names the connection, as gRPC does."""
        self._check()
        async with contextlib.aclosing(self._servicer.Generate(request, _Call(peer))) as responses:
            async for response in responses:
                yield response

    def check_num_outputs(self, num_outputs: int, field: str) -> None:
        """As ``RouterServicer.check_num_outputs``."""
        self._servicer.check_num_outputs(num_outputs, field)

    async def model_info(self) -> router_pb2.GetModelInfoResponse:
        """The model and the SSMs."""
        self._check()
        return await self._servicer.GetModelInfo(router_pb2.GetModelInfoRequest(), _Call(""))

    async def tokenize(self, request: router_pb2.TokenizeRequest) -> router_pb2.TokenizeResponse:
        """Token ids of text or chat."""
        self._check()
        return await self._servicer.Tokenize(request, _Call(""))

    async def detokenize(self, request: router_pb2.DetokenizeRequest) -> router_pb2.DetokenizeResponse:
        """Text of token ids."""
        self._check()
        return await self._servicer.Detokenize(request, _Call(""))

    def numerics_digest(self) -> str:
        """Of all that decides an output's bits besides the request."""
        return self._servicer.served_model().numerics_digest

    def tool_call_format(self) -> ToolCallFormat:
        """In which the model writes calls of tools."""
        model = self._servicer.served_model()
        return format_of(self._tool_call_format, model.tokenizer, model.name)

    def _check(self) -> None:
        if self._is_draining():
            raise UnavailableError("this router is shutting down; ask another one, or again later")


class _Call:
    """What the servicer asks of gRPC's context. HTTP has no deadlines: who has waited enough hangs up."""

    def __init__(self, peer: str) -> None:
        self._peer = peer

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> Metadata:
        return trace_headers()


def peer_of(client: tuple[str, int] | None) -> str:
    """How gRPC writes the other end of a connection; empty for unix sockets."""
    if client is None:
        return ""
    host, port = client
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
