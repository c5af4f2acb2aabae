"""One drafter's side of one request: sends it what it lacks, checks what it drafts, and leaves it alone when it fails.

Used by ``specgrove.loop.drafting``. Invariant: what comes of it are valid trees below the last committed token, or none.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from specgrove.config import MAX_TREE_DEPTH
from specgrove.errors import DeadlineExceededError, SpecGroveError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.loop.checked_drafts import NO_DRAFT, CheckedDraft, CheckedTree, checked_tree
from specgrove.loop.deadlines import remaining_ms
from specgrove.loop.request import NOT_TRACED, GenerationRequest, SamplingParams
from specgrove.loop.told import Told
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import Draft, DraftedTree, DraftWork, TreeShape
from specgrove.ranges import MIN_TEMPERATURE

logger = logging.getLogger(__name__)

# A drafter that fails is left alone for so many steps, twice as many after each further failure.
_FIRST_NUM_STEPS_ALONE = 4
_MAX_NUM_STEPS_ALONE = 256


class DrafterSession(Protocol):
    """One request at a drafter: one work at a time, and a mailbox for its drafts."""

    def is_there(self, ssms: tuple[str, ...]) -> bool:
        """Whether it has one of these SSMs, and can be asked now; none named: any. Costs nothing."""
        ...

    def ask(self, work: DraftWork) -> bool:
        """Has sent it when it returns: it is no coroutine. It ends the work before, whose drafts come no more.

        Returns whether the drafter may go ahead, which it may be asked for and not be told. Raises any ``SpecGroveError``.
        """
        ...

    async def answer(self) -> Draft:
        """The trees below the committed tokens of what was asked. Raises any ``SpecGroveError``."""
        ...

    def grown(self) -> list[Draft]:
        """After the answer: what has come since, oldest first, of trees that grow on (``Draft.has_more``)."""
        ...

    async def close(self) -> None:
        """Forgets the request. Never raises ``SpecGroveError``."""
        ...


class Drafter(Protocol):
    """A pool of SSMs. The loop goes on without the trees of one that fails."""

    def session(self, session_id: str) -> DrafterSession:
        """For one request."""
        ...


@dataclass(slots=True)
class _Drafted:
    """The newest tree of each SSM, by its name, below so many committed tokens."""

    num_committed: int
    trees: dict[str, DraftedTree]

    def add(self, draft: Draft) -> None:
        self.trees.update({drafted.ssm: drafted for drafted in draft.trees})


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a drafter is asked below so many committed tokens."""

    num_committed: int
    shape: TreeShape
    ssms: tuple[str, ...]
    ahead_ms: int


@dataclass(frozen=True, slots=True)
class _Cursor:
    """How much a drafter has of what the verifier told: hidden states up to a position, and rows' most probable tokens."""

    hidden_end: int = 0
    num_rows: int = 0


_NOTHING_SENT = _Cursor()


class DrafterSide:
    """At most one work is under way; while it is late, the drafter is passed over.

    So it is for a while after it has failed. What it holds is not forgotten then: should it have lost the session, it will say so.
    """

    def __init__(self, request: GenerationRequest, drafter: Drafter, vocab_size: int, told: Told) -> None:
        self._request = request
        self._session = drafter.session(request.session_id)
        self._vocab_size = vocab_size
        self._sampling = _as_drafted(request.sampling)
        self._told = told
        self._cursor = _NOTHING_SENT
        self._sent = _NOTHING_SENT
        self._held_len = 0
        self._asked_len = 0
        self._drafted: _Drafted | None = None  # for the last step, where the drafter goes on with it
        self._goes_ahead = False
        self.may_go_ahead = False
        """Whether the drafter may go ahead with what it was asked last."""
        self.under_way: asyncio.Task[CheckedDraft] | None = None
        """The last work sent; it may have ended."""
        self.is_late = False
        self._num_failures = 0  # in a row
        self._num_steps_alone = 0

    def is_free(self, ssms: tuple[str, ...]) -> bool:
        """Whether it may be asked for these SSMs."""
        return not self.is_busy and self._num_steps_alone == 0 and self._session.is_there(ssms)

    @property
    def is_busy(self) -> bool:
        """Whether a work is under way that is to be waited for. One that goes ahead ends when the next one comes."""
        return self.under_way is not None and not self.under_way.done() and not self._goes_ahead

    @property
    def goes_ahead(self) -> bool:
        """Whether the drafter has said that it goes on with what it was asked last, or is expected to."""
        return self._goes_ahead

    def takes_part(self, ssms: tuple[str, ...]) -> bool:
        """Asked once for each step: False while it is left alone, is away, or has none of these SSMs."""
        is_alone = self._num_steps_alone > 0
        self._num_steps_alone -= is_alone
        return not is_alone and self._session.is_there(ssms)

    def trees_ahead(
        self, committed: list[int], shape: TreeShape, ssms: tuple[str, ...] = ()
    ) -> tuple[CheckedTree, ...]:
        """The trees below the committed tokens, as far as the drafter has told them already, for it went on as the verifier did; of these
        SSMs, none named: of all.

        Of each tree that grew below earlier tokens that is the part below the last one of those that came since.
        """
        drafted = self._drafted
        if drafted is None or (self.under_way is not None and not self.under_way.done()):
            return ()
        for draft in self._session.grown():
            if draft.base == drafted.num_committed:
                drafted.add(draft)
        path, found = committed[drafted.num_committed :], []
        for each in drafted.trees.values():
            if ssms and each.ssm not in ssms:  # it was asked once, and isn't any more
                continue
            try:
                whole = checked_tree(each, MAX_TREE_DEPTH, self._vocab_size).tree
                if whole.token_ids[0] != committed[drafted.num_committed - 1]:
                    raise ValueError("its root is not the last committed token")
            except ValueError as error:
                self._leave_alone(f"SSM {each.ssm} sent a malformed tree: {error}")
                self._drafted = None
                return ()
            tree = whole.below(path)
            if tree is None or (any(whole.sources) and not any(tree.sources)):  # nothing, or nothing of its own
                continue
            tree = tree.within(shape.max_depth, _least_path(shape))
            if tree.num_nodes > 1:
                found.append(CheckedTree(each.ssm, tree))
        return tuple(found)

    def ask(
        self, committed: list[int], shape: TreeShape, ssms: tuple[str, ...], ahead_ms: int = 0
    ) -> asyncio.Task[CheckedDraft]:
        """Sends what the drafter lacks of the tokens, which may be added to afterwards. It must not be busy. ``ssms`` are asked; none
        named: all that it has.

        For ``ahead_ms`` after its answer it may go on: see ``trees_ahead``.
        """
        num_committed = len(committed)
        asked = _Asked(num_committed, shape, ssms, ahead_ms)
        if self.under_way is not None and not self.under_way.done():
            # Sent and not answered yet. The drafter has the tokens; if not, it will say so.
            self.under_way.cancel()
            self._held_len, self._cursor = self._asked_len, self._sent
        self._asked_len, self._drafted = num_committed, None
        failure: Exception | None = None
        try:
            self._send(committed, asked)
        except Exception as error:
            failure = error
        self.under_way = asyncio.create_task(self._draft(committed, asked, failure))
        return self.under_way

    def draft_of(self, answer: asyncio.Task[CheckedDraft]) -> CheckedDraft:
        """What has come of it by now; otherwise the drafter is late, and is not asked again before it has answered: it may hang."""
        self.is_late = not answer.done()
        if self.is_late:
            self._goes_ahead = False
            logger.warning("a drafter is late; going on without it")
            return NO_DRAFT
        return answer.result()

    def _send(self, committed: list[int], asked: _Asked) -> None:
        num_committed = asked.num_committed
        # The last committed token was in no pass of the verifier yet.
        hidden_states = self._told.hidden_states(self._cursor.hidden_end, num_committed - 1)
        hidden_end = self._cursor.hidden_end if hidden_states is None else hidden_states.end_position
        self._sent = _Cursor(hidden_end, self._told.num_rows)
        self.may_go_ahead = self._session.ask(
            DraftWork(
                session_id=self._request.session_id,
                base=self._held_len,
                new_token_ids=tuple(committed[self._held_len : num_committed]),
                shape=asked.shape,
                ssms=asked.ssms,
                timeout_ms=remaining_ms(self._request.deadline_s),
                trace_context=NOT_TRACED if self._held_len else self._request.trace_context,
                sampling=None if self._held_len else self._sampling,
                hidden_states=hidden_states,
                row_top_k=self._told.rows_since(self._cursor.num_rows),
                ahead_ms=asked.ahead_ms,
                has_other_rules=not self._held_len and self._request.sampling.has_other_rules,
                cache_salt=None if self._held_len else self._request.cache_salt,
            )
        )
        # A work that it must not go ahead with is to be answered before the next one comes.
        self._goes_ahead = self._goes_ahead and self.may_go_ahead

    async def _draft(self, committed: list[int], asked: _Asked, failure: Exception | None) -> CheckedDraft:
        """What comes of what was sent, or was not for ``failure``: sent once more when the drafter holds less than thought."""
        num_committed = asked.num_committed
        try:
            try:
                if failure is not None:
                    raise failure
                draft = await self._session.answer()
            except StaleBaseError as error:
                self._note_held(error, num_committed)
                self._send(committed, asked)
                draft = await self._session.answer()
        except StaleBaseError as error:
            self._note_held(error, num_committed)
        except UnavailableError as error:
            # It is away, and asking costs nothing till it is back; or it has failed a whole step.
            logger.debug("no draft: %s", error)
            if isinstance(error, WorkLostError):
                self._leave_alone(str(error))
        except DeadlineExceededError:
            pass
        except SpecGroveError as error:
            self._leave_alone(str(error))
        except Exception as error:  # a drafter's defect costs speed only
            self._leave_alone(f"{type(error).__name__}: {error}")
        else:
            self._held_len, self._cursor = num_committed, self._sent
            self._goes_ahead = draft.has_more
            checked = self._checked(draft, num_committed, committed[num_committed - 1], asked.shape.max_depth)
            if self._goes_ahead:  # nothing is wrong with it
                self._drafted = _Drafted(num_committed, {})
                self._drafted.add(draft)
            return checked
        return NO_DRAFT

    def _note_held(self, error: StaleBaseError, num_committed: int) -> None:
        self._held_len = error.held_len if error.held_len <= num_committed else 0
        self._cursor = _NOTHING_SENT

    def _checked(self, draft: Draft, num_committed: int, root: int, max_depth: int) -> CheckedDraft:
        checked: list[CheckedTree] = []
        complaints: list[str] = []
        for drafted in draft.trees:
            try:
                tree = checked_tree(drafted, max_depth, self._vocab_size)
                if draft.base != num_committed or tree.tree.token_ids[0] != root:
                    raise ValueError(f"its root is not the last of {num_committed} committed tokens")
                checked.append(tree)
            except ValueError as error:
                complaints.append(f"SSM {drafted.ssm} sent a malformed tree: {error}")
        if complaints:
            self._leave_alone("; ".join(complaints))
        elif self._num_failures > 0:
            logger.info("the drafter drafts again")
            self._num_failures = 0
        return CheckedDraft(tuple(checked), draft.times)

    def _leave_alone(self, reason: str) -> None:
        self._goes_ahead = False
        self._num_steps_alone = min(_FIRST_NUM_STEPS_ALONE << self._num_failures, _MAX_NUM_STEPS_ALONE)
        level = logging.WARNING if self._num_failures == 0 else logging.DEBUG
        self._num_failures += 1
        logger.log(
            level,
            "a drafter fails, and is left alone for %d steps: %s",
            self._num_steps_alone,
            reason,
        )

    async def close(self) -> None:
        """Gives up what is under way, and closes the session."""
        if self.under_way is not None:
            self.under_way.cancel()
        await self._session.close()


def _least_path(shape: TreeShape) -> float:
    return 0.0 if shape.prices is None else shape.prices.min_node_prob


def _as_drafted(sampling: SamplingParams) -> DraftSampling | None:
    """As far as a drafter can use it; ``None``: greedy."""
    if sampling.temperature < MIN_TEMPERATURE:
        return None
    return DraftSampling(sampling.temperature, sampling.seed, sampling.top_k, sampling.top_p)
