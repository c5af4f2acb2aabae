"""What an output must look like, as clients say it. The router checks it, ``specgrove.structures.grammars`` enforces it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class StructureKind(enum.Enum):
    """In what language it is said what an output must look like; by the fields of ``StructuredOutput`` in token_tree.proto."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


JSON_BLANKS = r"[\x20\x0A\x0D\x09]{1,64}"
"""Between the parts of JSON. Indentations fit; small models that may write blanks without end do so."""


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What an output must look like. There is one text, but of a choice as many as there are to choose from."""

    kind: StructureKind
    texts: tuple[str, ...]

    @property
    def text(self) -> str:
        """Of all kinds but a choice."""
        (text,) = self.texts
        return text


ANY_JSON_OBJECT = StructuredOutput(StructureKind.JSON_SCHEMA, ('{"type":"object"}',))
