"""Stands between grpc and every servicer method, so that servicers stay thin: they just raise.

Invariant: a call ends with a status of ``specgrove.serving.status``, never with a traceback; a generator of responses is
closed before its call ends, however it ends; a draining server takes no new calls but health checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from specgrove.errors import DeadlineExceededError, InternalError, InvalidRequestError, SpecGroveError, UnavailableError
from specgrove.serving.address import MAX_MESSAGE_BYTES
from specgrove.serving.field_counts import check_num_fields
from specgrove.serving.loop_turns import LoopTurns
from specgrove.serving.status import abort, status_of
from specgrove.serving.undecodable import invalid_text_field
from specgrove.serving.write_limit import WriteLimit
from specgrove.telemetry.metrics import Kind, Metric, Reading

logger = logging.getLogger(__name__)

CALL_ERRORS = Metric(
    "specgrove_grpc_errors_total",
    Kind.COUNTER,
    "Calls of gRPC that ended with an error, by method and status code. Calls that their clients cancelled are none.",
    labels=("method", "code"),
)

# Of requests in a turn of a public server's event loop: to read and check 64 KiB takes a millisecond or two, and so do 16 small ones.
_TURN_BYTES = 64 * 1024
_CALL_BYTES = 4 * 1024
_OPEN_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.")

Context = grpc.aio.ServicerContext[Any, Any]


def is_open(method: str) -> bool:
    """Whether it is for health checks and for people who look: never refused."""
    return method.startswith(_OPEN_PREFIXES)


class CallGuard(grpc.aio.ServerInterceptor):
    """One per server. ``is_draining`` is set by the server."""

    def __init__(self, write_timeout_s: float | None = None, *, is_public: bool = False) -> None:
        """``write_timeout_s`` is how long a response of a stream may wait for its client to read.

        ``is_public``: the fields of requests that come in streams are counted too. Services trust the sizes of one another's.
        """
        self.is_draining = False
        self._num_errors: Counter[tuple[str, ...]] = Counter()
        self._write_timeout_s = write_timeout_s
        self._is_public = is_public
        self._turns = LoopTurns(_TURN_BYTES) if is_public else None

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(CALL_ERRORS, self._num_errors)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or is_open(method):
            return handler
        return self._guarded(handler, method)

    def _guarded(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(_of_decodable(handler.stream_stream), method, _as_it_is),
                request_deserializer=_checked(handler.request_deserializer, counts_fields=self._is_public),
                response_serializer=handler.response_serializer,
            )
        # As if requests came in a stream, which is the same on the wire: grpc gives a call that its client closes without a request to
        # no handler of the other kind, and its client would wait for ever.
        read = self._reader(handler.request_deserializer)
        if handler.response_streaming and not handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler.unary_stream, method, read), response_serializer=handler.response_serializer
            )
        if not handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(
                self._unary(handler.unary_unary, method, read), response_serializer=handler.response_serializer
            )
        raise NotImplementedError(f"{method}: no service has client-streaming methods")

    def _reader(self, deserialize: Callable[[bytes], Any]) -> Callable[[AsyncIterator[bytes]], Awaitable[Any]]:
        """Reads a call's only request; of strangers' no more at a time than streams can wait for."""
        checked, turns = _checked(deserialize), self._turns

        async def read(requests: AsyncIterator[bytes]) -> Any:
            content = await anext(aiter(requests), None)
            if content is None:
                raise _NoRequestError
            if turns is not None:
                await turns.take(_CALL_BYTES + len(content))
            return checked(content)

        return read

    def _unary(
        self,
        behaviour: Callable[[Any, Context], Awaitable[Any]],
        method: str,
        read: Callable[[AsyncIterator[bytes]], Awaitable[Any]],
    ) -> Callable[..., Awaitable[Any]]:
        async def call(requests: AsyncIterator[bytes], context: Context) -> Any:
            async with self._statuses(context, method):
                request = await read(requests)
                self._check(request)
                return await behaviour(request, context)

        return call

    def _streaming(
        self, behaviour: Callable[[Any, Context], Any], method: str, read: Callable[[Any], Awaitable[Any]]
    ) -> Callable[..., Awaitable[None]]:
        async def call(requests: Any, context: Context) -> None:
            async with self._statuses(context, method):
                request = await read(requests)
                self._check(request)
                # Not a generator itself: grpc does not close generators of cancelled calls, this block does.
                async with contextlib.aclosing(behaviour(request, context)) as responses:
                    with WriteLimit(self._write_timeout_s) as limit:
                        async for response in responses:
                            await self._write(context, response, limit)

        return call

    async def _write(self, context: Context, response: Any, limit: WriteLimit) -> None:
        try:
            await limit.bound(context.write(response))
        except TimeoutError:
            seconds = f"{self._write_timeout_s:g} s"
            raise DeadlineExceededError(f"the client has read nothing for {seconds}; its request was ended") from None
        except grpc.aio.InternalError as error:  # how grpc says that the client is gone, before it cancels the call
            if (num_bytes := response.ByteSize()) > MAX_MESSAGE_BYTES:  # and how it says this
                most = f"a message may have {MAX_MESSAGE_BYTES}"
                raise InternalError(f"a response of {num_bytes} bytes can't be sent: {most}") from error
            raise _ClientGoneError from error

    def _check(self, request: object) -> None:
        if self.is_draining:
            raise UnavailableError("this service is shutting down; ask another replica, or again later")
        if isinstance(request, _Undecodable):
            raise request.error

    @contextlib.asynccontextmanager
    async def _statuses(self, context: Context, method: str) -> AsyncIterator[None]:
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except _ClientGoneError:
            logger.debug("%s: the client is gone", method)
        except (
            _NoRequestError
        ):  # not counted: a client may have closed its call, or cancelled it, and grpc says which only later
            await abort(context, InvalidRequestError.of("request", "is missing: the call ended before a message came"))
        except SpecGroveError as error:
            logger.log(logging.ERROR if isinstance(error, InternalError) else logging.DEBUG, "%s: %s", method, error)
            await self._abort(context, method, error)
        except Exception as error:
            if context.cancelled():
                return
            if isinstance(error, NotImplementedError) and context.code() is grpc.StatusCode.UNIMPLEMENTED:
                # What grpc generates for methods that a servicer leaves out sets the code first. Any other is a defect of ours.
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method} is not served here")
            logger.exception("%s failed", method)
            await self._abort(context, method, InternalError("internal error; the service's log has the details"))

    async def _abort(self, context: Context, method: str, error: SpecGroveError) -> None:
        self._num_errors[(method, status_of(error)[0].name)] += 1
        await abort(context, error)


async def _as_it_is(requests: Any) -> Any:
    return requests


class _ClientGoneError(Exception):
    """Nobody reads what is written."""


class _NoRequestError(Exception):
    """A call ended before its request came."""


class _Undecodable:
    """Stands for a request whose bytes are no message."""

    def __init__(self, error: InvalidRequestError) -> None:
        self.error = error


def _of_decodable(
    behaviour: Callable[[AsyncIterator[Any], Context], Any],
) -> Callable[[AsyncIterator[Any], Context], Any]:
    async def decodable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            if isinstance(request, _Undecodable):
                raise request.error
            yield request

    return lambda requests, context: behaviour(decodable(requests), context)


def _checked(deserialize: Callable[[bytes], Any], *, counts_fields: bool = True) -> Callable[[bytes], Any]:
    # ``deserialize`` is the class method FromString of the message's class.
    descriptor = deserialize.__self__.DESCRIPTOR  # type: ignore[attr-defined]

    def deserialize_or_explain(content: bytes) -> Any:
        try:
            if counts_fields:
                check_num_fields(descriptor, content)
            return deserialize(content)
        except InvalidRequestError as error:
            return _Undecodable(error)
        except DecodeError:
            field = invalid_text_field(descriptor, content)
            if field is not None:
                return _Undecodable(InvalidRequestError.of(field, "is not valid UTF-8"))
            description = f"its bytes are no {descriptor.full_name} message, or a text in it is not valid UTF-8"
            return _Undecodable(InvalidRequestError.of("request", description))

    return deserialize_or_explain
