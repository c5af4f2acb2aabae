"""What ``MaskProcesses`` knows of its processes and outputs. Used on its thread alone."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from llm_service.mask_streams import MessageStream
from specgrove.structures.masks import Answer, Question
from specgrove.structures.structured_output import StructuredOutput

# So much work on one question is long, and so much more for each token that it tells of.
_LONG_S = 0.01
_LONG_S_PER_TOKEN = 0.001


@dataclass(slots=True, eq=False)
class MaskProcess:
    """One for a structure, or why there is none."""

    structure: StructuredOutput
    explores: bool = True
    problem: str | None = None
    """Why it answers nothing."""
    may_retry: bool = False
    """Whether another time there may be no such problem."""
    pid: int | None = None
    is_compiled: bool = False
    stream: MessageStream | None = None
    """``None`` while it waits to begin."""
    is_large: bool = False
    """Whether it may take as much memory as only the first few may."""
    outputs: set[int] = field(default_factory=set)
    asked: dict[int, Question] = field(default_factory=dict)
    """Questions whose roots have no answer, in the order in which it takes them."""
    num_lost_compiles: int = 0
    """This and those before it that ended while they compiled."""
    num_kills: int = 0
    """Those before it that were killed while they may have explored."""
    _seen: tuple[Question, float] | None = None
    """What it was at when that was first seen, and its processor time then."""

    @property
    def is_working(self) -> bool:
        """Whether it is at a question."""
        return self.pid is not None and self.is_compiled and bool(self.asked)

    @property
    def may_rest(self) -> bool:
        """Whether others may have its place until it is asked something. A large one might not be large again."""
        return self.stream is not None and self.is_compiled and not self.asked and not self.is_large

    def kill(self) -> None:
        """At once; its end is told later. Nothing, where it has not begun."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def has_worked_long(self) -> bool:
        """Whether it has taken much processor time for the question that it is at. To be asked again and again."""
        if self.pid is None or not self.is_working:
            self._seen = None
            return False
        question, spent_s = next(iter(self.asked.values())), _processor_time_s(self.pid)
        if self._seen is None or self._seen[0] is not question:
            self._seen = question, spent_s
        return spent_s - self._seen[1] > _LONG_S + _LONG_S_PER_TOKEN * len(question.token_ids)


@dataclass(slots=True)
class MaskedOutput:
    """An output that is not forgotten."""

    process: MaskProcess
    deliver: Callable[[Answer], None]
    token_ids: list[int] = field(default_factory=list)
    question: Question | None = None
    """That has no answer."""
    is_told: bool = False
    """Whether the process knows the tokens."""
    num_ends: int = 0
    """Processes that ended while they worked for its question."""


class LastStructures:
    """The last ``max_num`` that were added."""

    def __init__(self, max_num: int) -> None:
        self._max_num = max_num
        self._found: OrderedDict[StructuredOutput, None] = OrderedDict()

    def __contains__(self, structure: StructuredOutput) -> bool:
        return structure in self._found

    def add(self, structure: StructuredOutput) -> None:
        """In place of the oldest one, where there are so many."""
        self._found[structure] = None
        if len(self._found) > self._max_num:
            self._found.popitem(last=False)


def _processor_time_s(pid: int) -> float:
    """See man 3 clock_getcpuclockid."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0
