"""Which tokens a session's structured output may go on with, and where it may end. Owned by the session.

A ``MaskSource`` finds that beside the engine's thread, while passes run: ``MaskProcesses``, in the service. A session whose masks are not
there sits out, and holds up nobody. Invariant: what is allowed is a function of the sampling parameters and the output's tokens. So masks
change nothing of what makes speculation exact: at a tree's node they are those of incremental decoding, or nothing is chosen there.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from specgrove.errors import InvalidRequestError, ResourceExhaustedError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.structures.masks import Answer, Question
from specgrove.structures.structured_output import StructuredOutput
from specgrove.wire.structures import STRUCTURED_OUTPUT

# One whose answers take no more processor time than this has them at the end of a pass that began with the question.
_QUICK_S = 0.002
# After an answer that was late nevertheless, so many questions are answered first.
_NUM_CAREFUL = 16


class MaskSource(Protocol):
    """Where answers come from. None of its methods waits for anything; any thread may call them."""

    def open(self, structure: StructuredOutput, deliver: Callable[[Answer], None]) -> int:
        """A number for an output at its beginning. ``deliver`` is called for each answer, on any thread."""
        ...

    def ask(self, question: Question) -> None:
        """Its answers come later. An output has one question at a time: the next one takes its place."""
        ...

    def forget(self, output: int) -> None:
        """It has ended: no answer of it matters."""
        ...


class OutputStructure:
    """The structure, at the end of the committed output and at a tree's nodes below it."""

    def __init__(self, source: MaskSource, sampling: SamplingParams, news: Callable[[], None]) -> None:
        """``news`` is called when an answer to a question has come, on any thread."""
        assert sampling.structured_output is not None
        self._source = source
        self._arrived: deque[Answer] = deque()
        self._output = source.open(sampling.structured_output, _Letterbox(self._arrived, news))
        weakref.finalize(self, source.forget, self._output).atexit = False
        self._stop_token_ids = np.array(sampling.stop_token_ids, dtype=np.int64)
        self._stops = frozenset(sampling.stop_token_ids)
        self._min_tokens = sampling.min_tokens
        self._numbers = itertools.count(1)
        self._number = 0
        self._num_told = 0
        self._num_careful = 1
        self._answers: dict[int, Answer] = {}

    def ask(self, output_token_ids: Sequence[int], tree: TokenTree) -> None:
        """What may follow a tree's nodes? Its root is the end of the committed output, which has only grown since the last time."""
        self._number, self._answers = next(self._numbers), {}
        num_kept, self._num_told = self._num_told, len(output_token_ids)
        self._source.ask(
            Question(
                self._output, self._number, num_kept, tuple(output_token_ids[num_kept:]), tree.token_ids, tree.parents, self._stops
            )
        )  # fmt: skip

    @property
    def is_ready(self) -> bool:
        """Whether it is known what may follow the root, or that nothing can be known."""
        while self._arrived:
            answer = self._arrived.popleft()
            if answer.number == self._number:
                self._answers[answer.node] = answer
                if answer.node == 0:
                    self._num_careful = max(self._num_careful - 1, 0) if answer.spent_s < _QUICK_S else 1
        return 0 in self._answers

    @property
    def is_quick(self) -> bool:
        """Whether it will be ready at the end of a pass that begins now."""
        return self._num_careful == 0

    def was_late(self) -> None:
        """It was not ready at the end of a pass."""
        if self.is_quick:
            self._num_careful = _NUM_CAREFUL

    @property
    def problem(self) -> InvalidRequestError | ResourceExhaustedError | None:
        """Why the output can't go on; where it ``is_ready``. The second is for a while, and this output's alone."""
        answer = self._answers[0]
        if answer.may_retry:
            return ResourceExhaustedError(f"{STRUCTURED_OUTPUT}: {answer.problem}")
        return _failed(answer.problem) if answer.problem else None

    @property
    def possible_nodes(self) -> Sequence[int]:
        """The nodes of the tree that can be accepted, and its root: no row need be spent on others. Where it ``is_ready``.

        A stop token is none: it comes out all the same, as the bonus token, and nothing follows it.
        """
        return self._answers[0].possible_nodes

    def knows(self, node: int) -> bool:
        """Whether it is known what may follow a node."""
        return self.is_ready and node in self._answers

    def is_stop(self, token_id: int) -> bool:
        """Whether nothing follows it."""
        return token_id in self._stops

    def masked(self, logits: torch.Tensor, node: int, num_tokens: int) -> torch.Tensor:
        """Logits, float32 ``[vocab_size]``, minus infinity where a token isn't allowed after a node that it ``knows``, with which the
        output has ``num_tokens`` tokens. Raises ``InvalidRequestError`` where none is.

        A stop token is allowed where the output may end; before ``min_tokens`` only where nothing else is. One with a text may be
        allowed for its text, too.
        """
        allowed = self._answers[node].allowed
        if allowed is None:
            assert self.problem is not None
            raise self.problem
        mask = np.zeros(len(logits), dtype=np.bool_)
        num_ids = min(len(logits), allowed.num_ids)
        mask[:num_ids] = allowed.tokens[:num_ids]
        if allowed.may_end:
            mask[self._stop_token_ids] = True
        if not mask.any():
            raise _failed(f"after {num_tokens} tokens this model has none with which the output could go on")
        if num_tokens < self._min_tokens:
            going_on = mask.copy()
            going_on[self._stop_token_ids] = False
            mask = going_on if going_on.any() else mask
        return torch.where(torch.from_numpy(mask), logits, -torch.inf)


class _Letterbox:
    """Where answers are put. It does not hold the structure, which ends with its session."""

    def __init__(self, arrived: deque[Answer], news: Callable[[], None]) -> None:
        self._arrived = arrived
        self._news = news

    def __call__(self, answer: Answer) -> None:
        self._arrived.append(answer)
        if answer.node == 0:
            self._news()


class Structures:
    """Makes them, and knows when one of them has news. Any thread may call ``of`` and ``take_news``."""

    def __init__(self, source: MaskSource | None) -> None:
        """Without a ``source`` there are none."""
        self._source = source
        self._changed = threading.Condition()
        self._has_news = False
        self.wake_up: Callable[[], None] = lambda: None
        """Called when an answer to a question has come, on any thread: the engine has work."""

    def of(self, sampling: SamplingParams) -> OutputStructure | None:
        """At an output's beginning. Raises ``InvalidRequestError``. What is wrong with a structure is told later."""
        if sampling.structured_output is None:
            return None
        if self._source is None:
            raise _failed("is not supported by this service")
        return OutputStructure(self._source, sampling, self._tell)

    @property
    def has_news(self) -> bool:
        """Whether an answer has come since they were last taken."""
        return self._has_news

    def take_news(self) -> bool:
        """``has_news``, once."""
        with self._changed:
            found, self._has_news = self._has_news, False
            return found

    def wait(self, structures: Sequence[OutputStructure], timeout_s: float) -> None:
        """Until they are ready, or for so long."""
        if not all(structure.is_ready for structure in structures):
            with self._changed:
                self._changed.wait_for(lambda: all(structure.is_ready for structure in structures), timeout_s)

    def _tell(self) -> None:
        with self._changed:
            self._has_news = True
            self._changed.notify_all()
        self.wake_up()


def _failed(problem: object) -> InvalidRequestError:
    return InvalidRequestError.of(STRUCTURED_OUTPUT, str(problem))
