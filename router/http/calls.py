"""The router's service as HTTP calls it: the same methods that gRPC calls, in the same process. Used by ``app`` and ``outputs``.

Does for HTTP what ``specgrove.serving.call_guard`` does for gRPC. Invariant: a router that drains takes no new calls.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence

from router.http.tool_calls import ToolCallFormat, format_of
from router.http.trace_headers import Metadata, trace_headers
from router.servicer import RouterServicer
from specgrove.errors import InvalidRequestError, UnavailableError
from specgrove.v1 import router_pb2


class RouterCalls:
    """One per HTTP server."""

    def __init__(
        self,
        servicer: RouterServicer,
        is_serving: Callable[[], bool],
        is_draining: Callable[[], bool],
        tool_call_format: str,
        served_names: Sequence[str] = (),
    ) -> None:
        """``tool_call_format`` is a name, or ``auto``. ``served_names`` are the model's by HTTP; none: its own."""
        self._servicer = servicer
        self._tool_call_format = tool_call_format
        self._served_names = tuple(served_names)
        self._is_draining = is_draining
        self.is_serving = is_serving
        """Whether requests are served now, as gRPC's health service says it."""

    async def generate(
        self, request: router_pb2.GenerateRequest, peer: str
    ) -> AsyncGenerator[router_pb2.GenerateResponse, None]:
        """Streams one output; ``peer`` names the connection, as gRPC does."""
        self._check()
        if self._served_names:
            self.check_name(request.model)
            request.model = ""  # the servicer knows its own name alone
        async with contextlib.aclosing(self._servicer.Generate(request, _Call(peer))) as responses:
            async for response in responses:
                yield response

    def check_num_outputs(self, num_outputs: int, field: str) -> None:
        """As ``RouterServicer.check_num_outputs``."""
        self._servicer.check_num_outputs(num_outputs, field)

    async def model_info(self) -> router_pb2.GetModelInfoResponse:
        """The model, by the first of its names, and the SSMs."""
        self._check()
        info = await self._servicer.GetModelInfo(router_pb2.GetModelInfoRequest(), _Call(""))
        info.model = self.names()[0]
        return info

    def names(self) -> tuple[str, ...]:
        """All that the model may be asked for by."""
        return self._served_names or (self._servicer.served_model().name,)

    def check_name(self, model: str | None) -> None:
        """Raises ``InvalidRequestError`` for another model's; whoever names none means the one that is served."""
        names = self.names()
        if model not in (None, "", *names):
            served = " and ".join(map(repr, names))
            raise InvalidRequestError.of("model", f"{model!r} is not served here; this router serves {served}")

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
