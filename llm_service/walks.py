"""The walks of a pass's trees, many of them side by side. Used by the engine, which waits for all of them.

A choice by logits (top-k, top-p, min-p, penalties, a mask) takes up to a millisecond of a thread, and the interpreter is free meanwhile. A
walk reads its own session and its own rows alone, and changes nothing. So threads share the walks, and nothing depends on which does what.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from llm_service.acceptance import Acceptance, accept
from llm_service.node_answers import NodeAnswers, NodeChoices
from llm_service.session import PendingWork

_MIN_SHARE = 2  # of a thread: less is over before another one has begun

Walk = tuple[PendingWork, NodeAnswers]
Walked = Acceptance | Exception
"""What is accepted, or why the tree could not be walked."""


class Walks:
    """``num_threads``, the engine's own among them."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._others = ThreadPoolExecutor(max(1, num_threads - 1), "walks")  # a thread begins when it is first needed

    def walk(self, walks: Sequence[Walk]) -> list[Walked]:
        """Of each, in order."""
        walked: list[Walked | None] = [None] * len(walks)

        def take(places: Sequence[int]) -> None:
            for place in places:
                walked[place] = _walk(*walks[place])

        by_logits = [place for place, (_, answers) in enumerate(walks) if not isinstance(answers, NodeChoices)]
        num_shares = max(1, min(self._num_threads, len(by_logits) // _MIN_SHARE))
        begun = [self._others.submit(take, by_logits[share::num_shares]) for share in range(1, num_shares)]
        take(by_logits[::num_shares])
        take([place for place in range(len(walks)) if isinstance(walks[place][1], NodeChoices)])
        for share in begun:
            share.result()
        return [each for each in walked if each is not None]


def _walk(pending: PendingWork, answers: NodeAnswers) -> Walked:
    try:
        return accept(pending.session, pending.tree, answers, pending.nodes)
    except Exception as error:
        return error
