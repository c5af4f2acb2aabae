"""Errors reach other processes whole: process pools send what their workers raise."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest

from specgrove import errors
from specgrove.client.output import Chunk, OutputToken
from specgrove.errors import FieldViolation, InvalidRequestError, SpecGroveError
from specgrove.loop.output import FinishReason
from specgrove.loop.works import LogProbs

ERRORS = [
    errors.StaleBaseError(7, "stale"),
    errors.StaleBaseError(7),
    errors.UnavailableError("gone"),
    errors.WorkLostError("died", was_alone=True),
    errors.NoReplicaError("none"),
    errors.ResourceExhaustedError("full", 250),
    errors.DeadlineExceededError("late"),
    errors.UnauthorizedError("who"),
    errors.SessionClosedError("closed"),
    errors.InternalError("bug"),
    InvalidRequestError([FieldViolation("a", "is wrong"), FieldViolation("b", "too")]),
]


def _pickled(value: object) -> object:
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("copied", [_pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_are_copied_whole(error: SpecGroveError, copied: Callable[[object], object]) -> None:
    found = copied(error)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


def test_every_kind_of_error_is_tried() -> None:
    kinds = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, SpecGroveError)}
    assert kinds - {SpecGroveError} == {type(error) for error in ERRORS}


def test_chunks_are_copied_whole() -> None:
    chunk = Chunk(
        (OutputToken(1, "a", ("lookup",), LogProbs(-1.0, 1, ((1, -1.0),))),), "a", FinishReason.STOP, stop_reason=1
    )
    assert _pickled(chunk) == chunk
