"""Our errors as gRPC statuses with ``google.rpc`` details, and back. The only place that maps one to the other.

A client never sees a traceback: errors that are not ours become INTERNAL with a fixed text, and are logged.
"""

from __future__ import annotations

import re

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from specgrove.errors import (
    DEFAULT_RETRY_DELAY_MS,
    DeadlineExceededError,
    FieldViolation,
    InternalError,
    InvalidRequestError,
    NoReplicaError,
    ResourceExhaustedError,
    SessionClosedError,
    SpecGroveError,
    StaleBaseError,
    UnauthorizedError,
    UnavailableError,
)

DOMAIN = "specgrove"
_DETAILS_KEY = "grpc-status-details-bin"
# A status travels in HTTP/2 trailers, of which peers take 8 KiB.
_MAX_NUM_VIOLATIONS = 16
_MAX_DESCRIPTION_LEN = 160
_MAX_MESSAGE_LEN = 1000
# What gRPC says of messages and metadata over its limits. Proxies that limit rates use the same code.
_TOO_LARGE = re.compile(r"larger than max|size exceeds")

_CODE_AND_REASON: tuple[tuple[type[SpecGroveError], grpc.StatusCode, str], ...] = (
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (StaleBaseError, grpc.StatusCode.FAILED_PRECONDITION, "STALE_BASE"),
    (ResourceExhaustedError, grpc.StatusCode.RESOURCE_EXHAUSTED, "RESOURCE_EXHAUSTED"),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (NoReplicaError, grpc.StatusCode.UNAVAILABLE, "NO_REPLICA"),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    (UnauthorizedError, grpc.StatusCode.UNAUTHENTICATED, "UNAUTHORIZED"),
    (SessionClosedError, grpc.StatusCode.CANCELLED, "SESSION_CLOSED"),
    (SpecGroveError, grpc.StatusCode.INTERNAL, "INTERNAL"),
)


# One of gRPC's two ways to wait for sockets tells less: "Connection refused" and "Socket closed".
_ERROR_NUMBER = re.compile(r" \(\d+\)$")
_READ_FAILED = re.compile(r"^Secure read failed \((.*)\)$")
_TLS_ERROR = re.compile(r"OPENSSL_internal:([A-Z_]+)")
# How gRPC begins when it has no connection.
_NOT_CONNECTED = ("failed to connect", "errors resolving", "DNS resolution failed")

# How gRPC says that a connection ended in the middle of a call.
_CUT_OFF = re.compile(r"Socket closed|Connection reset|Broken pipe|GOAWAY|Stream removed")


def is_not_connected(details: str) -> bool:
    """Whether gRPC says that there is no connection, in contrast to a server that answers UNAVAILABLE."""
    return details.startswith(_NOT_CONNECTED)


def is_cut_off(details: str) -> bool:
    """Whether gRPC says that a connection ended in the middle of a call, in contrast to one that was never made."""
    return not is_not_connected(details) and _CUT_OFF.search(details) is not None


def connection_cause(details: str) -> str:
    """What stopped a connection, in a few words; gRPC tells all of its own steps before."""
    if not is_not_connected(details):
        return details
    if (found := _TLS_ERROR.search(details)) is not None:
        return f"TLS: {found[1].lower().replace('_', ' ')}"
    return _READ_FAILED.sub(r"\1", _ERROR_NUMBER.sub("", details.rpartition(": ")[2].rstrip("]")))


async def abort(context: grpc.aio.ServicerContext[object, object], error: SpecGroveError) -> None:
    """Ends the call with the error's status. Always raises (grpc's own way of ending a call)."""
    code, status = status_of(error)
    await context.abort(code, status.message, trailing_metadata=((_DETAILS_KEY, status.SerializeToString()),))


def status_of(error: SpecGroveError) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The code, and the status with its details."""
    code, reason = next((code, reason) for kind, code, reason in _CODE_AND_REASON if isinstance(error, kind))
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    details = [info]
    if isinstance(error, StaleBaseError):
        info.metadata["held_len"] = str(error.held_len)
    elif isinstance(error, InvalidRequestError):
        details.append(_bad_request(error.violations))
    elif isinstance(error, ResourceExhaustedError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_delay_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=_shortened(str(error), _MAX_MESSAGE_LEN))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, status


def error_from_rpc(rpc_error: grpc.aio.AioRpcError) -> SpecGroveError:
    """The error that the server meant, or the nearest one when it did not say (a lost connection, another server)."""
    details = _details_of(rpc_error)
    code, message = rpc_error.code(), rpc_error.details() or rpc_error.code().name
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violations = [FieldViolation(v.field, v.description) for v in details.bad_request.field_violations]
        return InvalidRequestError(violations or [FieldViolation("request", message)])
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if not details.info.reason and _TOO_LARGE.search(message):
            # grpc itself says so: trying again cannot help.
            return InvalidRequestError.of("request", message)
        return ResourceExhaustedError(message, details.retry_delay_ms or DEFAULT_RETRY_DELAY_MS)
    if code is grpc.StatusCode.FAILED_PRECONDITION and details.info.reason == "STALE_BASE":
        return StaleBaseError(int(details.info.metadata.get("held_len", "0")), message)
    if code is grpc.StatusCode.UNAVAILABLE:
        # A router that found no replica has waited for one, for minutes.
        return UnavailableError(message, may_retry=details.info.reason != "NO_REPLICA")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceededError(message)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return UnauthorizedError(message)
    if code is grpc.StatusCode.CANCELLED:
        return SessionClosedError(message)
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return InternalError(f"no router of this version answers at this address ({code.name}: {message})")
    return InternalError(f"{code.name}: {message}" if code is not grpc.StatusCode.INTERNAL else message)


class _Details:
    """What the details of one status hold; absent parts are empty."""

    def __init__(self) -> None:
        self.info = error_details_pb2.ErrorInfo()
        self.bad_request = error_details_pb2.BadRequest()
        self.retry_delay_ms: int | None = None


def _details_of(rpc_error: grpc.aio.AioRpcError) -> _Details:
    details = _Details()
    content = dict(rpc_error.trailing_metadata() or ()).get(_DETAILS_KEY)
    if not isinstance(content, bytes):
        return details
    try:
        status = status_pb2.Status.FromString(content)
    except DecodeError:  # another server's, or cut off by a proxy
        return details
    for packed in status.details:
        retry = error_details_pb2.RetryInfo()
        if packed.Unpack(retry):
            details.retry_delay_ms = retry.retry_delay.ToMilliseconds()
        else:
            packed.Unpack(details.info) or packed.Unpack(details.bad_request)
    return details


def _bad_request(violations: tuple[FieldViolation, ...]) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=_shortened(violation.field, _MAX_DESCRIPTION_LEN),
                description=_shortened(violation.description, _MAX_DESCRIPTION_LEN),
            )
            for violation in violations[:_MAX_NUM_VIOLATIONS]
        ]
    )


def _shortened(text: str, max_len: int) -> str:
    return text if len(text) <= max_len else text[: max_len - 3] + "..."
