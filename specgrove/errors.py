"""The failures that cross a boundary: raised by drafters and verifiers, understood by the loop, mapped to gRPC codes in one place.

Each class says what its receiver can do about it. Messages name what is wrong and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DEFAULT_RETRY_DELAY_MS = 1000
# Of what runs or reads models, where it is asked for in an installation of the router or of clients alone.
NO_TORCH = "this needs torch, which is not installed here (the router's image has none): run it where models run, or install torch"


class SpecGroveError(Exception):
    """Base of all errors below. They can be copied, and sent to other processes, with all that they carry."""

    def __reduce__(self) -> tuple[Callable[..., SpecGroveError], tuple[object, ...]]:
        # Exception's own calls the constructor with the text alone.
        return _restored, (type(self), self.args, self.__dict__)


class StaleBaseError(SpecGroveError):
    """The receiver does not hold the committed tokens an item builds on: send it those from ``held_len`` on."""

    def __init__(self, held_len: int, message: str = "") -> None:
        super().__init__(message or f"the session holds {held_len} committed tokens")
        self.held_len = held_len


class UnavailableError(SpecGroveError):
    """The replica is gone or draining: another one, or the same one later, must be sent all committed tokens.

    ``may_retry``: trying again soon may help.
    """

    def __init__(self, message: str = "", *, may_retry: bool = True) -> None:
        super().__init__(message)
        self.may_retry = may_retry


class WorkLostError(UnavailableError):
    """What computed the work is gone with it: a process died, or a whole step failed. Perhaps by the work's own doing.

    ``was_alone``: no other work was lost with it.
    """

    def __init__(self, message: str, *, was_alone: bool) -> None:
        super().__init__(message)
        self.was_alone = was_alone


class NoReplicaError(SpecGroveError):
    """No replica was there in all the time there was to wait. Final for the loop; a client may try again later."""


class ResourceExhaustedError(SpecGroveError):
    """No room now. Try again after ``retry_delay_ms``."""

    def __init__(self, message: str, retry_delay_ms: int = DEFAULT_RETRY_DELAY_MS) -> None:
        super().__init__(message)
        self.retry_delay_ms = retry_delay_ms


class DeadlineExceededError(SpecGroveError):
    """The client's deadline passed."""


class UnauthorizedError(SpecGroveError):
    """The router's proxy, or the router, does not accept who asks: the certificate or the token is missing or wrong."""


class SessionClosedError(SpecGroveError):
    """The session was closed while its item waited."""


class InternalError(SpecGroveError):
    """A defect of the service that answered."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field of a request, by its proto path. Halves of characters, which names in JSON may hold, are escaped: no answer could."""

    field: str
    description: str

    def __post_init__(self) -> None:
        for name in ("field", "description"):
            object.__setattr__(self, name, getattr(self, name).encode(errors="backslashreplace").decode())


class InvalidRequestError(SpecGroveError):
    """The request is wrong; sending it again cannot help. Carries every violation found."""

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    @classmethod
    def of(cls, field: str, description: str) -> InvalidRequestError:
        """One violation."""
        return cls((FieldViolation(field, description),))


def _restored(kind: type[SpecGroveError], texts: tuple[object, ...], values: Mapping[str, object]) -> SpecGroveError:
    error = kind.__new__(kind, *texts)
    error.__dict__.update(values)
    return error
