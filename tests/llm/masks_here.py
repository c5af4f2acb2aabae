"""Masks that are made where they are asked for: a ``MaskSource`` for tests of what an engine does with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from specgrove.structures.grammars import GrammarCompiler
from specgrove.structures.masks import Answer, MaskMaker, Question
from specgrove.structures.structured_output import StructuredOutput
from specgrove.tokenizer import Tokenizer


class MasksHere:
    """Answers at once."""

    def __init__(self, vocabulary: Tokenizer | GrammarCompiler) -> None:
        self._compiler = vocabulary if isinstance(vocabulary, GrammarCompiler) else GrammarCompiler(vocabulary)
        self._numbers = itertools.count()
        self._opened: dict[int, tuple[MaskMaker | str, Callable[[Answer], None]]] = {}

    def open(self, structure: StructuredOutput, deliver: Callable[[Answer], None]) -> int:
        """See ``MaskSource``."""
        number = next(self._numbers)
        maker: MaskMaker | str
        try:
            self._compiler.matcher(structure)
            maker = MaskMaker(lambda: self._compiler.matcher(structure))
        except ValueError as error:
            maker = str(error)
        self._opened[number] = maker, deliver
        return number

    def ask(self, question: Question) -> None:
        """See ``MaskSource``."""
        maker, deliver = self._opened[question.output]
        if isinstance(maker, str):
            deliver(Answer(question.output, question.number, 0, None, maker))
            return
        deliver(maker.with_possible_nodes(question, maker.answer(question)))
        while maker.has_more:
            if (answer := maker.explored()) is not None:
                deliver(answer)

    def forget(self, output: int) -> None:
        """See ``MaskSource``."""
        del self._opened[output]

    @property
    def num_open(self) -> int:
        """Outputs that are not forgotten."""
        return len(self._opened)
