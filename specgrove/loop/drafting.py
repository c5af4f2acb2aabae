"""The drafters' side of one request: asks all of them at once, and merges the trees that come back in time.

Used by the loop in ``specgrove.loop.speculation``. Invariant: whatever drafters do (fail, come late, lie), the loop gets a valid tree
below the last committed token; at worst an empty one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Protocol

from specgrove.config import MAX_NUM_SSMS, MAX_NUM_TREE_NODES, NUM_TOKEN_IDS
from specgrove.errors import DeadlineExceededError, SpecGroveError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.loop.request import NOT_TRACED, Draft, DraftedTree, DraftWork, GenerationRequest, Reading, TreeShape
from specgrove.loop.token_tree import TokenTree, merge_trees

logger = logging.getLogger(__name__)

_MAX_TIMEOUT_MS = 2**32 - 1  # what the wire carries; 49 days
# A draft takes milliseconds; one that takes longer than this is given up for this step.
_DRAFT_TIMEOUT_S = 1.0
# How long a step waits for a drafter that is still busy with the prompt or an earlier step.
_LATE_DRAFT_WAIT_S = 0.05
# A drafter that fails is left alone for so many steps, twice as many after each further failure.
_FIRST_NUM_STEPS_ALONE = 4
_MAX_NUM_STEPS_ALONE = 256
# Drafters that lack more tokens than this take them in first, while the verifier goes on by itself.
_MAX_NUM_UNREAD_TOKENS = 64
_NOTHING = TreeShape(max_num_nodes=0, max_depth=0)


class Drafter(Protocol):
    """A pool of SSMs. Errors: any ``SpecGroveError``; the loop then goes on without this drafter's trees."""

    async def draft(self, work: DraftWork) -> Draft:
        """Takes the committed tokens in and drafts trees below them."""
        ...

    async def close(self, session_id: str) -> None:
        """Forgets a session. Never raises ``SpecGroveError``."""
        ...


class Drafting:
    """The drafters' side of one request: asks all of them at once and merges what comes back in time."""

    def __init__(self, request: GenerationRequest, drafters: Sequence[Drafter], vocab_size: int) -> None:
        self._sessions = [_DrafterSession(request, drafter, vocab_size) for drafter in drafters]
        self._read_len = 0
        self._readings: set[asyncio.Task[None]] = set()
        self._last_reading: Reading | None = None

    def take_in(self, committed: list[int]) -> None:
        """Lets the drafters read in the background, those that have ended what they did before."""
        if any(session.is_free for session in self._sessions):
            reading = asyncio.create_task(self.read(committed))
            self._readings.add(reading)
            reading.add_done_callback(self._readings.discard)

    async def read(self, committed: list[int]) -> None:
        """Lets the drafters read, and waits for them, however long it takes."""
        started_s, num_tokens, self._read_len = time.perf_counter(), len(committed) - self._read_len, len(committed)
        tasks = [session.start(committed, _NOTHING) for session in self._sessions if session.is_free]
        if tasks:
            await asyncio.wait(tasks)
            self._last_reading = Reading(num_tokens, (time.perf_counter() - started_s) * 1e3)

    async def settle(self) -> None:
        """Returns when the drafters have ended what they were asked before, however long it takes."""
        busy = [session.under_way for session in self._sessions if session.under_way is not None]
        if busy:
            await asyncio.wait(busy)

    def take_reading(self) -> Reading | None:
        """The last reading that has ended and was not taken yet."""
        reading, self._last_reading = self._last_reading, None
        return reading

    def is_behind(self, committed: list[int]) -> bool:
        """Whether the prompt or much else is to be read, or all drafters are busy, before a draft can be had."""
        is_busy = all(session.is_busy for session in self._sessions)
        return is_busy or self._read_len == 0 or len(committed) - self._read_len > _MAX_NUM_UNREAD_TOKENS

    async def draft(self, committed: list[int], shape: TreeShape) -> tuple[TokenTree, tuple[str, ...], float]:
        """The merged tree, the names behind its source bits, and the time in milliseconds the drafters took."""
        root = TokenTree.of_root(committed[-1])
        if not self._sessions or shape.max_num_nodes <= 0 or shape.max_depth <= 0:
            return root, (), 0.0
        started_s, self._read_len = time.perf_counter(), len(committed)
        answers = await asyncio.gather(*(session.draft(committed, shape) for session in self._sessions))
        trees = [drafted for answer in answers for drafted in answer]
        ssms = tuple(dict.fromkeys(drafted.ssm for drafted in trees))[:MAX_NUM_SSMS]
        sourced = [drafted.tree.with_source(ssms.index(drafted.ssm)) for drafted in trees if drafted.ssm in ssms]
        tree = merge_trees(sourced, min(shape.max_num_nodes + 1, MAX_NUM_TREE_NODES)) if sourced else root
        return tree, ssms, (time.perf_counter() - started_s) * 1e3

    async def close(self) -> None:
        for reading in self._readings:
            reading.cancel()
        await asyncio.gather(*(session.close() for session in self._sessions))


class _DrafterSession:
    """One drafter's side of one request. At most one item is under way; while it is late, the drafter is passed over.

    So it is for a while after it has failed. What it holds is not forgotten then: should it have lost the session, it will say so.
    """

    def __init__(self, request: GenerationRequest, drafter: Drafter, vocab_size: int) -> None:
        self._request = request
        self._drafter = drafter
        self._vocab_size = vocab_size
        self._held_len = 0
        self.under_way: asyncio.Task[tuple[DraftedTree, ...]] | None = None
        """The last item sent; it may have ended."""
        self._is_late = False
        self._num_failures = 0  # in a row
        self._num_steps_alone = 0

    @property
    def is_free(self) -> bool:
        return not self.is_busy and self._num_steps_alone == 0

    @property
    def is_busy(self) -> bool:
        return self.under_way is not None and not self.under_way.done()

    def start(self, committed: list[int], shape: TreeShape) -> asyncio.Task[tuple[DraftedTree, ...]]:
        self.under_way = asyncio.create_task(self._ask(tuple(committed), shape))
        return self.under_way

    async def draft(self, committed: list[int], shape: TreeShape) -> tuple[DraftedTree, ...]:
        if self._num_steps_alone > 0:
            self._num_steps_alone -= 1
            return ()
        if self.under_way is not None and not self.under_way.done():
            await asyncio.wait({self.under_way}, timeout=0 if self._is_late else _LATE_DRAFT_WAIT_S)
            if not self.under_way.done():
                self._is_late = True
                return ()
        task = self.start(committed, shape)
        done, _ = await asyncio.wait({task}, timeout=_DRAFT_TIMEOUT_S)
        self._is_late = not done
        if self._is_late:
            logger.warning("a drafter is late; going on without it")
            return ()
        return task.result()

    async def _ask(self, committed: tuple[int, ...], shape: TreeShape) -> tuple[DraftedTree, ...]:
        """Sends what the drafter lacks; once more when it holds less than thought. Never raises ``SpecGroveError``."""
        for _ in range(2):
            try:
                work = DraftWork(
                    session_id=self._request.session_id,
                    base=self._held_len,
                    new_token_ids=committed[self._held_len :],
                    shape=shape,
                    ssms=self._request.speculation.ssms,
                    timeout_ms=remaining_ms(self._request.deadline_s),
                    trace_context=NOT_TRACED if self._held_len else self._request.trace_context,
                )
                draft = await self._drafter.draft(work)
            except StaleBaseError as error:
                self._held_len = error.held_len if error.held_len <= len(committed) else 0
                continue
            except UnavailableError as error:
                # It is away, and asking costs nothing till it is back; or it has failed a whole step.
                logger.debug("no draft: %s", error)
                if isinstance(error, WorkLostError):
                    self._leave_alone(str(error))
                return ()
            except DeadlineExceededError:
                return ()
            except SpecGroveError as error:
                self._leave_alone(str(error))
                return ()
            except Exception as error:  # a drafter's defect costs speed only
                self._leave_alone(f"{type(error).__name__}: {error}")
                return ()
            self._held_len = len(committed)
            return self._usable(draft, committed, shape.max_depth)
        return ()

    def _usable(self, draft: Draft, committed: tuple[int, ...], max_depth: int) -> tuple[DraftedTree, ...]:
        usable: list[DraftedTree] = []
        complaints: list[str] = []
        for drafted in draft.trees:
            try:
                usable.append(self._checked(drafted, draft.base, committed, max_depth))
            except ValueError as error:
                complaints.append(f"SSM {drafted.ssm} sent a malformed tree: {error}")
        if complaints:
            self._leave_alone("; ".join(complaints))
        elif self._num_failures > 0:
            logger.info("the drafter drafts again")
            self._num_failures = 0
        return tuple(usable)

    def _leave_alone(self, reason: str) -> None:
        self._num_steps_alone = min(_FIRST_NUM_STEPS_ALONE << self._num_failures, _MAX_NUM_STEPS_ALONE)
        level = logging.WARNING if self._num_failures == 0 else logging.DEBUG
        self._num_failures += 1
        logger.log(
            level,
            "a drafter fails, and is left alone for %d steps: %s",
            self._num_steps_alone,
            reason,
        )

    def _checked(self, drafted: DraftedTree, base: int, committed: tuple[int, ...], max_depth: int) -> DraftedTree:
        """The tree less the tokens that the LLM doesn't have: SSMs' vocabularies are often padded. Raises ``ValueError``."""
        tree = drafted.tree
        tree.validated(vocab_size=NUM_TOKEN_IDS, max_num_nodes=MAX_NUM_TREE_NODES)
        if max(tree.depths()) > max_depth:
            raise ValueError(f"it is deeper than the {max_depth} levels asked for")
        if base != len(committed) or tree.token_ids[0] != committed[-1]:
            raise ValueError(f"its root is not the last of {len(committed)} committed tokens")

        def is_known(token_id: int) -> bool:
            return token_id < self._vocab_size and token_id not in drafted.foreign_ids

        return DraftedTree(drafted.ssm, tree.of_tokens(is_known))

    async def close(self) -> None:
        if self.under_way is not None:
            self.under_way.cancel()
        await self._drafter.close(self._request.session_id)


def remaining_ms(deadline_s: float | None) -> int | None:
    """Milliseconds left, at least 1. Raises ``DeadlineExceededError``."""
    if deadline_s is None:
        return None
    remaining_ms = int((deadline_s - time.monotonic()) * 1e3)
    if remaining_ms <= 0:
        raise DeadlineExceededError("the request's deadline passed")
    return min(remaining_ms, _MAX_TIMEOUT_MS)
