"""The drafters' side of one request: asks all of them at once, and merges the trees that come back in time.

Drafters that go ahead grow their trees while the verifier works. Where the committed tokens go on within such a tree, what hangs below
them is the next tree at once: the drafters are told, and not waited for.

Used by the loop in ``specgrove.loop.speculation``. Invariant: whatever drafters do (fail, come late, lie), the loop gets a valid tree
below the last committed token; at worst an empty one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from specgrove.config import MAX_NUM_SSMS, MAX_NUM_TREE_NODES
from specgrove.loop.checked_drafts import CheckedTree
from specgrove.loop.drafter_side import Drafter, DrafterSide
from specgrove.loop.output import ProposedTree, Reading
from specgrove.loop.request import GenerationRequest
from specgrove.loop.token_tree import TokenTree, merge_trees
from specgrove.loop.told import Told
from specgrove.loop.working_ahead import WorkingAhead
from specgrove.loop.works import SsmTime, TreeShape

# A draft takes milliseconds; one that takes longer than this is given up for this step.
_DRAFT_TIMEOUT_S = 1.0
# How long a step waits for a drafter that is still busy with the prompt or an earlier step.
_LATE_DRAFT_WAIT_S = 0.05
# Drafters that lack more tokens than this take them in first, while the verifier goes on by itself.
_MAX_NUM_UNREAD_TOKENS = 64
_NOTHING = TreeShape(max_num_nodes=0, max_depth=0)

Correct = Callable[[str, TokenTree], TokenTree]
"""An SSM's tree, by the SSM's name, with the probabilities that its nodes are taken to have."""


SsmChoice = Callable[[], tuple[str, ...]]
"""The names of the SSMs to ask now; none: all."""


def as_told(ssm: str, tree: TokenTree) -> TokenTree:
    """Believes what SSMs say."""
    return tree


@dataclass(frozen=True, slots=True)
class MergedTree:
    """All drafters' trees as one. Bit i of a node's sources is ``ssms[i]``; ``asked`` is what was asked for, if anything was."""

    tree: TokenTree
    ssms: tuple[str, ...] = ()
    asked: TreeShape | None = None
    draft_ms: float = 0.0
    """The time that drafters took."""
    proposed: tuple[ProposedTree, ...] = ()
    """What it was merged from."""
    was_ahead: bool | None = None
    """As ``Step.was_ahead``."""
    ssm_times: tuple[SsmTime, ...] = ()
    """As ``Step.ssm_times``."""


class Drafting:
    """The drafters' side of one request."""

    def __init__(
        self,
        request: GenerationRequest,
        drafters: Sequence[Drafter],
        vocab_size: int,
        told: Told,
        correct: Correct = as_told,
        choose_ssms: SsmChoice | None = None,
    ) -> None:
        """Without ``choose_ssms`` those that the request names are asked."""
        self._choose_ssms: SsmChoice = choose_ssms or (lambda: request.speculation.ssms)
        self._sides = [DrafterSide(request, drafter, vocab_size, told) for drafter in drafters]
        self._correct = correct
        self._ahead = WorkingAhead()
        self._read_len = 0
        self._readings: set[asyncio.Task[None]] = set()
        self._last_reading: Reading | None = None

    def note_verified(self, ms: float) -> None:
        """What verifying a tree took, the ways included: drafters may go ahead for about so long."""
        self._ahead.note_verified(ms)

    def ask(self, committed: list[int], shape: TreeShape, *, may_go_ahead: bool = True) -> Drafts:
        """Asks for trees below the committed tokens. Drafters that are free have been sent their work when this returns.

        Those that can may go ahead then, while the verifier works.
        """
        sides: Sequence[DrafterSide] = ()
        ssms = self._choose_ssms()
        if shape.max_num_nodes > 0 and shape.max_depth > 0 and self._sides:
            self._read_len = len(committed)
            sides = [side for side in self._sides if side.takes_part(ssms)]
        return Drafts(sides, ssms, committed, shape, self._correct, self._ahead if may_go_ahead else None)

    def take_in(self, committed: list[int]) -> None:
        """Lets the drafters read in the background, those that have ended what they did before."""
        started_s, ssms = time.perf_counter(), self._choose_ssms()
        answers = [side.ask(committed, _NOTHING, ssms) for side in self._sides if side.is_free(ssms)]
        if answers:
            num_tokens, self._read_len = len(committed) - self._read_len, len(committed)
            reading = asyncio.create_task(self._time_reading(answers, num_tokens, started_s))
            self._readings.add(reading)
            reading.add_done_callback(self._readings.discard)

    async def _time_reading(self, answers: Sequence[asyncio.Task[object]], num_tokens: int, started_s: float) -> None:
        await asyncio.wait(answers)
        self._last_reading = Reading(num_tokens, (time.perf_counter() - started_s) * 1e3)

    async def settle(self) -> None:
        """Returns when the drafters have ended what they were asked before, however long it takes."""
        busy = [side.under_way for side in self._sides if side.under_way is not None]
        if busy:
            await asyncio.wait(busy)

    def take_reading(self) -> Reading | None:
        """The last reading that has ended and was not taken yet."""
        reading, self._last_reading = self._last_reading, None
        return reading

    def is_behind(self, committed: list[int]) -> bool:
        """Whether the prompt or much else is to be read, or all drafters are busy, before a draft can be had."""
        is_busy = all(side.is_busy for side in self._sides)
        return is_busy or self._read_len == 0 or len(committed) - self._read_len > _MAX_NUM_UNREAD_TOKENS

    async def close(self) -> None:
        """Closes the sessions of all drafters."""
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*(side.close() for side in self._sides))


class Drafts:
    """The trees that drafters were asked for, for one step."""

    def __init__(
        self,
        sides: Sequence[DrafterSide],
        ssms: tuple[str, ...],
        committed: list[int],
        shape: TreeShape,
        correct: Correct,
        ahead: WorkingAhead | None,
    ) -> None:
        """Asks those that are free. ``ahead``: that they may go ahead, and may have done so."""
        self._started_s = time.perf_counter()
        self._committed = committed
        self._ssms = ssms
        self._shape = shape
        self._asked = shape if shape.max_num_nodes > 0 and shape.max_depth > 0 else None
        self._correct = correct
        self._ahead = ahead
        self._ahead_ms = 0 if ahead is None else ahead.ahead_ms
        self._root = TokenTree.of_root(committed[-1])
        self._goes_ahead = any(side.goes_ahead for side in sides)
        trees_ahead = [tree for side in sides for tree in side.trees_ahead(committed, shape, ssms)]
        merged = self._merge(trees_ahead, True) if trees_ahead else None
        is_worth = merged is not None and ahead is not None and ahead.is_worth(merged.tree, shape.max_num_nodes)
        self._found = merged if is_worth else None
        # Where there is a tree nobody waits for another: drafters make one level, and go ahead at once.
        wanted = shape if self._found is None else replace(shape, max_depth=1)
        self._busy = [side for side in sides if side.is_busy]
        self._answers = [
            (side, side.ask(committed, wanted, ssms, self._ahead_ms)) for side in sides if not side.is_busy
        ]

    async def merged(self) -> MergedTree:
        """One tree: what was drafted ahead, where it is worth as much as what comes; else of those that come in time; or the root alone."""
        if self._found is not None:
            return self._found
        if self._busy:
            await self._ask_busy()
        if self._answers:
            await asyncio.wait([answer for _, answer in self._answers], timeout=_DRAFT_TIMEOUT_S)
        elif not self._busy:
            return MergedTree(self._root, asked=self._asked)
        drafts = [side.draft_of(answer) for side, answer in self._answers]
        trees = [tree for draft in drafts for tree in draft.trees]
        times = waited_for([draft.times for draft in drafts])
        merged = self._merge(trees, False if self._goes_ahead else None, times)
        if self._ahead is not None and any(side.may_go_ahead for side, _ in self._answers):
            self._ahead.note_waited(merged.draft_ms, merged.tree)
        return merged

    async def _ask_busy(self) -> None:
        """Those that end in time what they were asked before. One that was late with it is not waited for again."""
        under_way = [side.under_way for side in self._busy if side.under_way is not None and not side.is_late]
        if under_way:
            await asyncio.wait(under_way, timeout=_LATE_DRAFT_WAIT_S)
        for side in self._busy:
            side.is_late = side.is_busy
            if not side.is_late:
                self._answers.append((side, side.ask(self._committed, self._shape, self._ssms, self._ahead_ms)))

    def _merge(
        self, trees: Sequence[CheckedTree], was_ahead: bool | None, ssm_times: tuple[SsmTime, ...] = ()
    ) -> MergedTree:
        ssms = tuple(dict.fromkeys(each.ssm for each in trees))[:MAX_NUM_SSMS]
        proposed = tuple(
            ProposedTree(each.ssm, self._correct(each.ssm, each.tree.with_source(index)), each.tree.log_probs)
            for each in trees
            for index, ssm in enumerate(ssms)
            if ssm == each.ssm
        )
        tree = self._root
        if proposed:
            max_num_nodes = min(self._shape.max_num_nodes + 1, MAX_NUM_TREE_NODES)
            tree = merge_trees([each.tree for each in proposed], max_num_nodes)
        draft_ms = (time.perf_counter() - self._started_s) * 1e3
        return MergedTree(tree, ssms, self._asked, draft_ms, proposed, was_ahead, ssm_times)


def waited_for(times_by_drafter: Sequence[tuple[SsmTime, ...]]) -> tuple[SsmTime, ...]:
    """For how long each SSM was waited for: those of one drafter work one after the other, drafters beside one another."""
    if len(times_by_drafter) == 1:
        return times_by_drafter[0]
    totals = [sum(time.ms for time in times) for times in times_by_drafter]
    found: list[SsmTime] = []
    for index, times in enumerate(times_by_drafter):
        longer_ms = max(totals[index] - max(totals[:index] + totals[index + 1 :]), 0.0)
        found += [replace(time, ms=min(time.ms, longer_ms)) for time in times]
    return tuple(found)
