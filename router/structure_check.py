"""Whether outputs can be made to look as a client wants: told before anything slow begins. Used by the validation.

``check_structured_output`` looks at counts, sizes and JSON; ``StructureCheck`` compiles, in the process for long texts: a structure may
take a second and much memory, or end its process. Invariant: what passes compiles in the LLM service, which has the same vocabulary.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from router.template_values import template_values
from router.text_work import TextWork
from router.violations import Violations
from specgrove.errors import InvalidRequestError
from specgrove.ranges import MAX_NUM_CHOICES, MAX_STRUCTURE_BYTES
from specgrove.structures.structured_output import StructuredOutput, StructureKind
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import token_tree_pb2
from specgrove.wire.structures import STRUCTURED_OUTPUT, structured_output_from_proto

_MAX_NUM_KNOWN = 128


def check_structured_output(found: Violations, proto: token_tree_pb2.StructuredOutput) -> None:
    """All that can be said without compiling it."""
    name = proto.WhichOneof("kind")
    field = f"{STRUCTURED_OUTPUT}.{name}"
    if (num_bytes := proto.ByteSize()) > MAX_STRUCTURE_BYTES:
        found.add(field, f"has {num_bytes} bytes; at most {MAX_STRUCTURE_BYTES}")
        return
    try:
        structure = structured_output_from_proto(proto)
    except InvalidRequestError as error:
        for violation in error.violations:
            found.add(violation.field, violation.description)
        return
    if structure.kind is StructureKind.CHOICE:
        if not structure.texts:
            found.add(field, f"is empty; give 1 to {MAX_NUM_CHOICES} texts")
    elif not structure.text:
        found.add(field, "is empty")
    elif structure.kind is StructureKind.JSON_SCHEMA:
        try:
            template_values(structure.text)
        except ValueError as error:
            found.add(field, str(error))


class StructureCheck:
    """Compiles structures, and remembers those that were found good. One object per router."""

    def __init__(self, text_work: TextWork) -> None:
        self._text_work = text_work
        self._known: OrderedDict[StructuredOutput, Tokenizer] = OrderedDict()
        # The process works on one at a time anyway; who waits finds what those before found good.
        self._compiling = asyncio.Lock()

    async def check(self, found: Violations, tokenizer: Tokenizer, structure: StructuredOutput) -> None:
        """One that ``check_structured_output`` found nothing wrong with."""
        if self._is_known(tokenizer, structure):
            return
        async with self._compiling:
            if self._is_known(tokenizer, structure):
                return
            try:
                await self._text_work.run_apart(tokenizer, _Compilation(structure))
            except ValueError as error:
                found.add(f"{STRUCTURED_OUTPUT}.{structure.kind.value}", str(error))
                return
            self._keep(tokenizer, structure)

    def _is_known(self, tokenizer: Tokenizer, structure: StructuredOutput) -> bool:
        if self._known.get(structure) is not tokenizer:
            return False
        self._known.move_to_end(structure)
        return True

    def _keep(self, tokenizer: Tokenizer, structure: StructuredOutput) -> None:
        self._known[structure] = tokenizer
        while len(self._known) > _MAX_NUM_KNOWN:
            self._known.popitem(last=False)


class _Compilation:
    """What the process runs."""

    def __init__(self, structure: StructuredOutput) -> None:
        self._structure = structure

    def __call__(self, tokenizer: Tokenizer) -> None:
        # Imported there, not in the router.
        from specgrove.structures.grammars import check_structure

        check_structure(tokenizer, self._structure)
