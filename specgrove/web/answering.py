"""What the page does when something is pressed: asks the router, and yields what is to be shown while the answer comes.

Used by ``page``, whose components take the values. Invariant: however often chunks come, a visitor is sent at most ten updates a second,
and whoever leaves or stops ends the request everywhere.
"""

from __future__ import annotations

import asyncio
import html
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from specgrove.client import AsyncClient
from specgrove.client.output import ModelInfo
from specgrove.errors import SpecGroveError, UnavailableError
from specgrove.serving.status import connection_cause
from specgrove.web.answer_html import note_of, tokens_html, turns_html
from specgrove.web.conversation import Answer, ChatOptions, Conversation, Turn
from specgrove.web.ssm_marks import SsmMarks
from specgrove.web.statistics_view import statistics_html, verdict_html
from specgrove.web.step_chart import chart_svg
from specgrove.web.tree_view import tree_html

_UPDATE_S = 0.1
# Trees are large beside the rest, and nobody reads ten a second.
_TREE_UPDATE_S = 0.5
# A seed that is drawn can be typed again.
_NUM_SEEDS = 2**31


class Visitor:
    """Somebody who has the page open."""

    def __init__(self) -> None:
        self.info: ModelInfo | None = None
        self.conversation = Conversation()
        self.comparison = Conversation()
        """Of which only the answer under way is used: comparisons have no memory."""

    @property
    def marks(self) -> SsmMarks:
        """Those of the router's SSMs."""
        return SsmMarks(self.info.ssms if self.info is not None else ())


@dataclass(frozen=True, slots=True)
class ChatView:
    """What the chat shows. ``None`` stands for what has not changed."""

    is_answering: bool
    history: str | None = None
    live: str | None = None
    statistics: str | None = None
    chart: str | None = None
    tree: str | None = None
    question: str | None = None


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """What the comparison shows, first with speculation and then without; ``None`` as in ``ChatView``."""

    is_answering: bool
    texts: tuple[str | None, str | None] = (None, None)
    statistics: tuple[str | None, str | None] = (None, None)
    verdict: str | None = None


async def chat(
    client: AsyncClient, visitor: Visitor, question: str, options: ChatOptions
) -> AsyncGenerator[ChatView, None]:
    """Asks, and shows the answer as it comes. A question that fails comes back into its box."""
    conversation, marks, answer = visitor.conversation, visitor.marks, Answer()
    chunks = client.generate(conversation.messages(question, options.system), **options.params())
    answering = conversation.begin(answer, chunks)
    conversation.turns.append(Turn(question, answer))
    history = turns_html(conversation.turns, marks, is_last_open=True)
    yield ChatView(True, history, "", statistics_html(answer), chart_svg((), marks), tree_html(answer, marks), "")
    tree_s = time.monotonic()
    try:
        async for _ in _ticks(answering):
            is_tree_due = time.monotonic() - tree_s >= _TREE_UPDATE_S
            if is_tree_due:
                tree_s = time.monotonic()
            yield ChatView(
                True,
                live=tokens_html(answer.tokens, marks),
                statistics=statistics_html(answer),
                chart=chart_svg(answer.steps, marks),
                tree=tree_html(answer, marks) if is_tree_due else None,
            )
    finally:
        answering.cancel()
    answer.note = await _end_of(answering)
    yield ChatView(
        False,
        turns_html(conversation.turns, marks),
        "",
        statistics_html(answer),
        chart_svg(answer.steps, marks),
        tree_html(answer, marks),
        question if answer.note and not answer.tokens else None,
    )


async def compare(
    client: AsyncClient, visitor: Visitor, question: str, options: ChatOptions
) -> AsyncGenerator[ComparisonView, None]:
    """The same request twice, one after the other, so that neither takes time from the other.

    Speculation comes first: an SSM that learns from outputs would know the answer already.
    """
    marks = visitor.marks
    seed = options.seed if options.seed is not None else secrets.randbelow(_NUM_SEEDS)
    yield ComparisonView(True, ("", ""), ("", ""), "")
    answers: list[Answer] = []
    for place in range(2):
        answer = Answer()
        answers.append(answer)
        params = options.params(seed=seed, is_speculative=place == 0)
        chunks = client.generate(Conversation().messages(question, options.system), **params)
        answering = visitor.comparison.begin(answer, chunks)
        try:
            async for _ in _ticks(answering):
                yield _compared(place, answer, marks)
        finally:
            answering.cancel()
        answer.note = await _end_of(answering)
        yield _compared(place, answer, marks)
        if answer.note:
            yield ComparisonView(False, verdict=html.escape(answer.note))
            return
    yield ComparisonView(False, verdict=verdict_html(*answers))


def _compared(place: int, answer: Answer, marks: SsmMarks) -> ComparisonView:
    text, note = tokens_html(answer.tokens, marks), html.escape(note_of(answer))
    if place == 0:
        return ComparisonView(True, (text, None), (note, None))
    return ComparisonView(True, (None, text), (None, note))


async def _ticks(task: asyncio.Task[None]) -> AsyncGenerator[None, None]:
    """Comes back from time to time, until the task has ended."""
    while not (await asyncio.wait({task}, timeout=_UPDATE_S))[0]:
        yield


async def _end_of(answering: asyncio.Task[None]) -> str:
    """What ended an answer before its time; empty where it is whole."""
    if answering.cancelled():
        return "stopped"
    error = answering.exception()
    if error is None:
        return ""
    if not isinstance(error, (SpecGroveError, ValueError)):
        raise error
    return f"error: {error_in_words(error)}"


def error_in_words(error: Exception) -> str:
    """For visitors."""
    said = " ".join(connection_cause(str(error)).split())
    return f"the router does not answer ({said})" if isinstance(error, UnavailableError) else said
