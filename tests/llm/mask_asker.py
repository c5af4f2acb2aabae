"""Asking structures' processes, as an engine does."""

from __future__ import annotations

import threading

from llm_service.mask_processes import MaskProcesses
from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.masks import Answer, MaskLimits, Question
from specgrove.structures.structured_output import StructuredOutput
from tests.structures.examples import grammar, regex, tiny_vocabulary
from tests.waiting import LIMIT_S

TOKENIZER = tiny_vocabulary()
LIMITS = MaskLimits(output_s=0.3)  # the quick ones take a thousandth, the slow one ten times as much
LETTERS = regex("([a-c][d-f]){50}")
# Each text of n letters is written in very many ways, and each of 60 rules begins at each of them.
AMBIGUOUS = grammar(
    "start: r0\n" + "\n".join(
        f"r{i}: " + " | ".join(f"r{(i * 7 + j) % 60} r{(i * 3 + 5 * j) % 60}" for j in range(10)) + ' | "a"' for i in range(60)
    )
)  # fmt: skip
SLOW_LATER = grammar(
    AMBIGUOUS.text.replace("start: r0", 'start: "b" "c" "d" | "a" r0').replace('| "a"\n', "| /[aertu]/\n")
)


class Asker:
    """Opens outputs and asks, one question after another."""

    def __init__(self, processes: MaskProcesses) -> None:
        self.processes = processes
        self.number = 0
        self._answers: dict[tuple[int, int, int], Answer] = {}
        self._changed = threading.Condition()

    def open(self, structure: StructuredOutput) -> int:
        return self.processes.open(structure, self._take)

    def ask(self, output: int, num_kept: int, text: str = "") -> int:
        """The question's number."""
        self.number += 1
        self.processes.ask(Question(output, self.number, num_kept, tuple(TOKENIZER.encode(text)) if text else ()))
        return self.number

    def answer(self, output: int, number: int, node: int = 0) -> Answer:
        with self._changed:
            assert self._changed.wait_for(lambda: (output, number, node) in self._answers, LIMIT_S)
        return self._answers[output, number, node]

    def answered(self, output: int, num_kept: int, text: str = "") -> Answer:
        return self.answer(output, self.ask(output, num_kept, text))

    def has(self, output: int, number: int) -> bool:
        return (output, number, 0) in self._answers

    def _take(self, answer: Answer) -> None:
        with self._changed:
            self._answers[answer.output, answer.number, answer.node] = answer
            self._changed.notify_all()


def allowed_after(structure: StructuredOutput, text: str) -> set[int]:
    matcher = GrammarCompiler(TOKENIZER).matcher(structure)
    matcher.take(TOKENIZER.encode(text) if text else [])
    return set(matcher.allowed().tokens.nonzero()[0].tolist())


def ids_of(answer: Answer) -> set[int]:
    assert answer.allowed is not None, answer.problem
    return set(answer.allowed.tokens.nonzero()[0].tolist())
