"""A work's error as a message, and back."""

from __future__ import annotations

from specgrove.errors import (
    DEFAULT_RETRY_DELAY_MS,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    ResourceExhaustedError,
    SessionClosedError,
    SpecGroveError,
    StaleBaseError,
    UnavailableError,
    WorkLostError,
)
from specgrove.v1 import token_tree_pb2

_MAX_ERROR_LEN = 1000

_CODE_OF_ERROR: tuple[tuple[type[SpecGroveError], token_tree_pb2.WorkErrorCode], ...] = (
    (StaleBaseError, token_tree_pb2.WORK_ERROR_CODE_STALE_BASE),
    (InvalidRequestError, token_tree_pb2.WORK_ERROR_CODE_INVALID),
    (ResourceExhaustedError, token_tree_pb2.WORK_ERROR_CODE_RESOURCE_EXHAUSTED),
    (WorkLostError, token_tree_pb2.WORK_ERROR_CODE_LOST),
    (UnavailableError, token_tree_pb2.WORK_ERROR_CODE_UNAVAILABLE),
    (DeadlineExceededError, token_tree_pb2.WORK_ERROR_CODE_DEADLINE_EXCEEDED),
    (SessionClosedError, token_tree_pb2.WORK_ERROR_CODE_CANCELLED),
)


def error_to_proto(error: Exception) -> token_tree_pb2.WorkError:
    """Errors that are not ours become INTERNAL, by their type and text."""
    held_len = error.held_len if isinstance(error, StaleBaseError) else 0
    retry_delay_ms = error.retry_delay_ms if isinstance(error, ResourceExhaustedError) else 0
    for error_type, code in _CODE_OF_ERROR:
        if isinstance(error, error_type):
            return token_tree_pb2.WorkError(
                code=code,
                message=str(error)[:_MAX_ERROR_LEN],
                held_len=held_len,
                retry_delay_ms=retry_delay_ms,
                was_alone=isinstance(error, WorkLostError) and error.was_alone,
            )
    message = str(error) if isinstance(error, SpecGroveError) else f"{type(error).__name__}: {error}"
    return token_tree_pb2.WorkError(code=token_tree_pb2.WORK_ERROR_CODE_INTERNAL, message=message[:_MAX_ERROR_LEN])


def error_from_proto(proto: token_tree_pb2.WorkError) -> SpecGroveError:
    """The reverse of ``error_to_proto``."""
    match proto.code:
        case token_tree_pb2.WORK_ERROR_CODE_STALE_BASE:
            return StaleBaseError(proto.held_len, proto.message)
        case token_tree_pb2.WORK_ERROR_CODE_INVALID:
            field, is_named, description = proto.message.partition(": ")
            return InvalidRequestError.of(field, description) if is_named else InvalidRequestError.of("item", field)
        case token_tree_pb2.WORK_ERROR_CODE_RESOURCE_EXHAUSTED:
            return ResourceExhaustedError(proto.message, proto.retry_delay_ms or DEFAULT_RETRY_DELAY_MS)
        case token_tree_pb2.WORK_ERROR_CODE_LOST:
            return WorkLostError(proto.message, was_alone=proto.was_alone)
        case token_tree_pb2.WORK_ERROR_CODE_UNAVAILABLE:
            return UnavailableError(proto.message)
        case token_tree_pb2.WORK_ERROR_CODE_DEADLINE_EXCEEDED:
            return DeadlineExceededError(proto.message)
        case token_tree_pb2.WORK_ERROR_CODE_CANCELLED:
            return SessionClosedError(proto.message)
        case _:
            return InternalError(proto.message)
