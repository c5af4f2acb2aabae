"""Names of fields in errors: a client reads those of its own protocol."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from specgrove.errors import FieldViolation, InvalidRequestError


@contextlib.contextmanager
def renaming(names: Mapping[str, str]) -> Iterator[None]:
    """What is raised within has the names that ``names`` gives to paths, or to their first parts, e.g. ``sampling`` of ``sampling.top_p``.

    Ways to structure an output stand beside the other parameters in all protocols but the router's.
    """
    try:
        yield
    except InvalidRequestError as error:
        violations = [FieldViolation(_renamed(v.field, names), v.description) for v in error.violations]
        raise InvalidRequestError(violations) from error


def _renamed(field: str, names: Mapping[str, str]) -> str:
    if field in names:
        return names[field]
    first, dot, rest = field.replace(".structured_output.", ".", 1).partition(".")
    name, bracket, index = first.partition("[")
    return f"{names.get(name, name)}{bracket}{index}{dot}{rest}"
