"""Trees that are drafted while the verifier goes on by itself, and only compared with what it decides.

Used by the loop in ``specgrove.loop.speculation``, where the tree policy asks for it: so it learns what drafts would be worth without a
row or a round trip of the verifier. At most one is under way.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from specgrove.loop.drafting import Drafting, MergedTree
from specgrove.loop.output import Probe
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import TreeShape


@dataclass(frozen=True, slots=True)
class _Drafted:
    """A tree below the first ``base`` committed tokens."""

    base: int
    merged: MergedTree
    asked: TreeShape


class Probing:
    """The probes of one request."""

    def __init__(self, drafting: Drafting) -> None:
        self._drafting = drafting
        self._task: asyncio.Task[_Drafted] | None = None

    def start(self, committed: list[int], shape: TreeShape) -> None:
        """Lets the drafters read what they lack and draft, in the background. ``committed`` may grow meanwhile."""
        if self._task is None:
            self._task = asyncio.create_task(self._draft(committed, shape))

    async def _draft(self, committed: list[int], shape: TreeShape) -> _Drafted:
        # A drafter that is still reading would draft nothing, which were no sign of what it is worth.
        await self._drafting.settle()
        self._drafting.take_in(committed)
        await self._drafting.settle()
        base = len(committed)
        merged = await self._drafting.ask(committed, shape, may_go_ahead=False).merged()
        return _Drafted(base, merged, shape)

    def result(self, committed: list[int]) -> Probe | None:
        """The probe that was started, once the committed tokens tell how far its tree is right; then another may be started."""
        if self._task is None or not self._task.done():
            return None
        drafted = self._task.result()
        merged = drafted.merged
        token_ids = committed[drafted.base :]
        accepted_depth = _accepted_depth(merged.tree, token_ids)
        if accepted_depth is None:
            return None
        self._task = None
        return Probe(
            merged.tree,
            drafted.asked,
            accepted_depth,
            merged.draft_ms,
            merged.proposed,
            tuple(token_ids[: drafted.asked.max_depth + 1]),
            merged.ssm_times,
        )

    def call_off(self) -> None:
        """A tree is wanted now: drafters that were asked for two at once would take each other's place."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            self._task = None

    async def close(self) -> None:
        """Calls off what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def _accepted_depth(tree: TokenTree, token_ids: list[int]) -> int | None:
    """How many of the tokens are a path from the root; ``None`` while they end before the path does."""
    children = {
        (parent, token_id): node
        for node, (parent, token_id) in enumerate(zip(tree.parents, tree.token_ids, strict=True))
    }
    node, depth = 0, 0
    for token_id in token_ids:
        child = children.get((node, token_id))
        if child is None:
            return depth
        node, depth = child, depth + 1
    return None if node in tree.parents else depth
