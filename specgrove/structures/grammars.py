"""Structured outputs: which tokens may follow, by a JSON schema, a regular expression, texts to choose from, or a grammar.

llguidance does the work. The LLM service asks for every token of such an output; the router refuses what can't be served. Invariant:
what may follow is a function of the structure, the vocabulary and the output's tokens alone, whatever was tried and taken back before.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from llguidance.gbnf_to_lark import gbnf_to_lark, is_lark_syntax
from numpy.typing import NDArray

from specgrove.structures.structured_output import JSON_BLANKS, StructuredOutput, StructureKind
from specgrove.structures.understood_schemas import understood
from specgrove.tokenizer import Tokenizer

ENGINE = f"llguidance {importlib.metadata.version('llguidance')}"
"""What decides which tokens may follow: another version may decide otherwise."""

# A state is 1 to 2 kB. What needs more of them, or more time than llguidance's other limits leave a step, ends with an error.
_LIMITS = LLParserLimits(max_items_in_row=10_000, max_lexer_states=25_000, verbose_errors=False)
_MAX_NUM_KEPT = 16
_GBNF_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_NUM_ASCII = 128
# It names options of its own.
_SAID_OTHERWISE = {
    r"oneOf constraints are not supported\. Enable 'coerce_one_of' option to approximate oneOf with anyOf": (
        "alternatives of oneOf that may both fit are not supported; use anyOf"
    ),
    "Failed to generate regex for integer range: .*": (
        "minimum and maximum leave no integer between -(2^63 - 1024) and 2^63 - 1024: larger ones can't be followed"
    ),
    "Failed to generate regex for float range: .*": (
        "minimum and maximum leave no number between -10^18 and 10^18: larger ones can't be followed"
    ),
}


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may follow: ``bits`` has one for each token id, the lowest first; ``may_end`` says whether the output may be over."""

    bits: bytes
    num_ids: int
    may_end: bool

    @property
    def tokens(self) -> NDArray[np.bool_]:
        """Bool ``[num_ids]``."""
        return np.unpackbits(np.frombuffer(self.bits, np.uint8), count=self.num_ids, bitorder="little").view(np.bool_)


class _Compiled:
    """A structure, compiled; nothing is taken. A class of its own, since an ``LLMatcher`` can't be referred to weakly."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher


class GrammarCompiler:
    """Structures compiled for one vocabulary; those in use and the last ones are kept. Threads may share it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._in_use: weakref.WeakValueDictionary[StructuredOutput, _Compiled] = weakref.WeakValueDictionary()
        self._kept: OrderedDict[StructuredOutput, _Compiled] = OrderedDict()
        self._lock = threading.Lock()
        self._compiling = threading.Lock()

    def matcher(self, structure: StructuredOutput) -> OutputMatcher:
        """At the beginning of an output. Raises ``ValueError`` that says what is wrong with the structure.

        The first one of a structure takes a millisecond to a second, and the first of all as long as the vocabulary is read. While
        somebody holds one, others of the same structure take no time.
        """
        compiled = self._known(structure)
        if compiled is None:
            with self._compiling:  # one at a time: requests that come together often want the same
                compiled = self._known(structure) or self._compiled(structure)
        return OutputMatcher(compiled, self._tokenizer.vocab_size, lambda: self._compiled(structure))

    def _known(self, structure: StructuredOutput) -> _Compiled | None:
        with self._lock:
            compiled = self._in_use.get(structure)
            if compiled is not None:
                self._keep(structure, compiled)
            return compiled

    def _compiled(self, structure: StructuredOutput) -> _Compiled:
        matcher = LLMatcher(self._tokenizer.token_trie, _grammar_of(structure), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise ValueError(_told(matcher.get_error()))
        compiled = _Compiled(matcher)
        with self._lock:
            self._keep(structure, compiled)
        return compiled

    def _keep(self, structure: StructuredOutput, compiled: _Compiled) -> None:
        self._in_use[structure] = self._kept[structure] = compiled
        self._kept.move_to_end(structure)
        while len(self._kept) > _MAX_NUM_KEPT:
            self._kept.popitem(last=False)


class OutputMatcher:
    """Follows the tokens of one output. Owned by whoever writes it."""

    def __init__(self, compiled: _Compiled, num_ids: int, compile_anew: Callable[[], _Compiled]) -> None:
        self._compiled = compiled
        self._matcher = compiled.matcher.deep_copy()
        self._num_ids = num_ids
        self._compile_anew: Callable[[], _Compiled] | None = compile_anew
        self._words = np.zeros(num_ids // 32 + 1, dtype=np.int32)
        self._taken: list[int] = []

    @property
    def num_tokens(self) -> int:
        """Tokens taken."""
        return len(self._taken)

    @property
    def is_spent(self) -> bool:
        """Whether nothing can be taken back: after a dead end, or what takes too much time or memory."""
        return bool(self._matcher.is_error())

    @property
    def has_started_anew(self) -> bool:
        """Whether it can't once more: see ``_start_anew``."""
        return self._compile_anew is None

    def allowed(self) -> Allowed:
        """Raises ``ValueError`` where that takes too much time or memory."""
        self._fill()
        if self._matcher.is_error() and not self._is_at_dead_end():
            self._start_anew()
            self._fill()
        if self._is_at_dead_end():
            return Allowed(bytes(self._words.nbytes), self._num_ids, may_end=False)
        self._check()
        return Allowed(self._words.tobytes(), self._num_ids, self._matcher.is_accepting())

    def take(self, token_ids: Sequence[int]) -> None:
        """The output goes on with these. Raises ``ValueError`` where they lead away from the structure."""
        self._taken.extend(token_ids)
        if not self._matcher.consume_tokens(list(token_ids)):
            self._start_anew()
            self._check()

    def num_possible(self, token_ids: Sequence[int]) -> int:
        """How many of these the output could go on with, from the first on. Nothing is taken."""
        return self._matcher.validate_tokens(list(token_ids))

    def go_to(self, output_token_ids: Sequence[int], path: Sequence[int]) -> None:
        """To the end of a path behind an output, from wherever a path behind the same output has led. Raises as ``take``."""
        num_common = 0
        for taken, wanted in zip(self._taken[len(output_token_ids) :], path, strict=False):
            if taken != wanted:
                break
            num_common += 1
        if self.num_tokens > len(output_token_ids) + num_common:
            self.rewind(len(output_token_ids) + num_common)
        if missing := [*output_token_ids[self.num_tokens :], *path[num_common:]]:
            self.take(missing)

    def rewind(self, num_tokens: int) -> None:
        """Back to its first so many tokens."""
        num_left = len(self._taken) - num_tokens
        del self._taken[num_tokens:]
        if num_left and not self._matcher.rollback(num_left):
            self._start_anew()

    def _fill(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)

    def _is_at_dead_end(self) -> bool:
        """Something must follow, and the vocabulary hasn't it."""
        return self._matcher.get_error().startswith("NoExtensionBias")

    def _start_anew(self) -> None:
        """What outputs of one structure share grows up to a limit: none of them must end because of the others."""
        if self._compile_anew is not None:
            self._compiled, self._compile_anew = self._compile_anew(), None
            self._matcher = self._compiled.matcher.deep_copy()
            self._matcher.consume_tokens(self._taken)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ValueError(f"after {len(self._taken)} tokens: {_told(self._matcher.get_error())}")


def check_structure(tokenizer: Tokenizer, structure: StructuredOutput) -> None:
    """Raises ``ValueError`` that says why no output of this vocabulary can be made so. It may take a second, and much memory."""
    try:
        allowed = GrammarCompiler(tokenizer).matcher(structure).allowed()
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not allowed.may_end and not allowed.tokens.any():
        raise ValueError("there is no output that it allows")


def check_text(structure: StructuredOutput) -> None:
    """What can be said without a vocabulary, in milliseconds. Raises ``ValueError`` that says what is wrong."""
    try:
        is_wrong, messages = LLMatcher.validate_grammar_with_warnings(_grammar_of(structure), limits=_LIMITS)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if is_wrong:
        raise ValueError(_told(messages[0]))


def _grammar_of(structure: StructuredOutput) -> str:
    match structure.kind:
        case StructureKind.JSON_SCHEMA:
            schema = understood(structure.text)
            return LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_pattern": JSON_BLANKS})
        case StructureKind.REGEX:
            return LLMatcher.grammar_from_regex(structure.text)
        case StructureKind.CHOICE:
            return LLMatcher.grammar_from_regex("|".join(map(_literal, structure.texts)))
        case StructureKind.GRAMMAR:
            return LLMatcher.grammar_from_lark(_lark_of(structure.text))


def _literal(text: str) -> str:
    """As a regular expression; characters that might mean something in one by their numbers."""
    return "".join(
        character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):x}}}" for character in text
    )


def _lark_of(text: str) -> str:
    try:
        return text if is_lark_syntax(text) else gbnf_to_lark(_GBNF_ESCAPE.sub(_escaped, text))
    except RecursionError:
        raise
    except Exception as error:
        raise ValueError(f"is neither Lark nor GBNF: {error}") from error


def _escaped(found: re.Match[str]) -> str:
    """A character of GBNF that is written by its number: the conversion takes zeros off, which makes other characters of some."""
    code = int(found[0][2:], 16) if len(found[0]) > 2 else None
    if code is None or code > sys.maxunicode or 0xD800 <= code <= 0xDFFF:  # half a character
        return found[0]
    return f"\\x{code:02x}" if code < _NUM_ASCII else chr(code)


def _told(error: str) -> str:
    """In one line, without the excerpt that points at the place."""
    for theirs, ours in _SAID_OTHERWISE.items():
        error = re.sub(theirs, ours, error)
    lines = [line.strip() for line in error.partition("\n<")[0].splitlines()]
    return " ".join(line for line in lines if (line and line != "^" and not line[0].isdigit()) or line is lines[0])
