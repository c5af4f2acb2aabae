"""What clients make of statuses that are not ours: gRPC's own, proxies', and other servers'."""

from __future__ import annotations

import grpc
import pytest

from specgrove.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    ResourceExhaustedError,
    SessionClosedError,
    SpecGroveError,
    UnauthorizedError,
    UnavailableError,
)
from specgrove.serving.status import error_from_rpc, is_cut_off, is_not_connected

CODES = grpc.StatusCode
FOUND: list[tuple[grpc.StatusCode, str, type[SpecGroveError]]] = [
    (CODES.RESOURCE_EXHAUSTED, "SERVER: Received message larger than max (2000010 vs. 1048576)", InvalidRequestError),
    (CODES.RESOURCE_EXHAUSTED, "CLIENT: Sent message larger than max (20000011 vs. 16777216)", InvalidRequestError),
    (CODES.RESOURCE_EXHAUSTED, "Decompressed message larger than max", InvalidRequestError),
    (CODES.RESOURCE_EXHAUSTED, "received metadata size exceeds hard limit (20000 vs. 16384)", InvalidRequestError),
    # Of a proxy that limits rates.
    (CODES.RESOURCE_EXHAUSTED, "rate limited", ResourceExhaustedError),
    (CODES.RESOURCE_EXHAUSTED, "", ResourceExhaustedError),
    (CODES.UNAVAILABLE, "Socket closed", UnavailableError),
    (CODES.DEADLINE_EXCEEDED, "Deadline Exceeded", DeadlineExceededError),
    (CODES.CANCELLED, "Locally cancelled", SessionClosedError),
    (CODES.UNAUTHENTICATED, "", UnauthorizedError),
    (CODES.PERMISSION_DENIED, "", UnauthorizedError),
    (CODES.INVALID_ARGUMENT, "no", InvalidRequestError),
    (CODES.UNIMPLEMENTED, "Method not found!", InternalError),
    (CODES.UNKNOWN, "Stream removed", InternalError),
    (CODES.FAILED_PRECONDITION, "", InternalError),
]


@pytest.mark.parametrize(("code", "message", "kind"), FOUND)
@pytest.mark.parametrize("trailers", [None, (), (("grpc-status-details-bin", b"\xff"),), (("other", "x"),)])
def test_statuses_of_others_become_the_nearest_error(
    code: grpc.StatusCode,
    message: str,
    kind: type[SpecGroveError],
    trailers: tuple[tuple[str, bytes | str], ...] | None,
) -> None:
    metadata = None if trailers is None else grpc.aio.Metadata(*trailers)
    error = error_from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details=message))
    assert type(error) is kind
    assert (message or code.name) in str(error)


def test_a_connection_that_was_never_made_was_not_cut_off() -> None:
    """As a client without TLS is told by a server that speaks it."""
    refused = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"
    assert (is_not_connected(refused), is_cut_off(refused)) == (True, False)
    assert (is_not_connected("Socket closed"), is_cut_off("Socket closed")) == (False, True)
