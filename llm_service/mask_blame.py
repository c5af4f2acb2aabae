"""Whose fault it is that a process that makes masks has ended. Used by ``MaskProcesses``, on its thread.

Invariant: what may have been chance once, or the work of drafted tokens, fails nobody.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass

from llm_service.mask_process import LastStructures, MaskedOutput, MaskProcess
from specgrove.structures.mask_server import EXPLORED_TOO_LONG, TOO_SLOW
from specgrove.structures.masks import Question, too_slow

_MAX_NUM_ENDS = 2


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is refused, and why."""

    problem: str
    question: Question | None = None
    """``None``: all that have the structure."""


def blame_for_end(
    process: MaskProcess,
    code: int,
    *,
    outputs: Mapping[int, MaskedOutput],
    unexplored: LastStructures,
    output_s: float,
) -> Blame | None:
    """``None`` where the questions are asked anew. ``code`` is the exit code, or a signal's number negative. Counts this end, and adds
    the structure to ``unexplored`` where drafted tokens may have been at fault.
    """
    is_slow = code == -TOO_SLOW
    if not process.is_compiled:
        process.num_lost_compiles += 1
        if is_slow or process.num_lost_compiles >= _MAX_NUM_ENDS:
            return Blame("could not be compiled: it takes too much time or memory")
    elif code == -EXPLORED_TOO_LONG:
        unexplored.add(process.structure)
    elif process.explores and not is_slow:  # drafted tokens may have done it
        process.num_kills += 1
        if code != -signal.SIGKILL or process.num_kills >= _MAX_NUM_ENDS:
            unexplored.add(process.structure)
    elif process.asked:
        question = next(iter(process.asked.values()))
        output = outputs.get(question.output)
        if output is None:
            return Blame("", question)
        output.num_ends += 1
        num_tokens = len(output.token_ids)
        if is_slow:
            return Blame(too_slow(num_tokens, output_s), question)
        if output.num_ends >= _MAX_NUM_ENDS:
            return Blame(f"after {num_tokens} tokens it has ended its process twice", question)
    return None
