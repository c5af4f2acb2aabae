"""What is wrong with a request, collected field by field, so that a client is told everything at once. Used by the validation.

Invariant: however wrong a request is, its list is short: a status travels in HTTP trailers, of which peers take 8 KiB.
"""

from __future__ import annotations

from specgrove.errors import FieldViolation, InvalidRequestError
from specgrove.ranges import Range

# One less than a status holds: the last entry says how many there are besides.
_MAX_NUM_LISTED = 15
_MAX_QUOTED_LEN = 64


class Violations:
    """All that is wrong with one request."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []
        self._num_more = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, field: str, description: str) -> None:
        """One wrong field, by its proto path, with what would be right."""
        if len(self._found) < _MAX_NUM_LISTED:
            self._found.append(FieldViolation(field, description))
        else:
            self._num_more += 1

    def check_range(self, field: str, value: float, allowed: Range) -> None:
        """NaN and infinities are in no range."""
        if (problem := allowed.problem(value)) is not None:
            self.add(field, problem)

    def check_count(self, field: str, num_elements: int, max_num_elements: int, noun: str) -> bool:
        """Whether the list is short enough to be looked at."""
        if num_elements > max_num_elements:
            self.add(field, f"has {num_elements} {noun}; at most {max_num_elements}")
            return False
        return True

    def raise_any(self) -> None:
        """Raises ``InvalidRequestError`` when there are any."""
        if not self._found:
            return
        if self._num_more:
            self._found.append(FieldViolation("request", f"and {self._num_more} more"))
        raise InvalidRequestError(self._found)


def quoted(text: str) -> str:
    """For a message: a client's text, cut to a readable length."""
    return repr(text if len(text) <= _MAX_QUOTED_LEN else text[:_MAX_QUOTED_LEN] + "...")
