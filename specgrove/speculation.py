"""The speculation loop: draft, merge, verify, commit. Written once, run in-process and over the network.

Called by the router's servicer, and by tests and benchmarks in one process, with any ``Drafter``s and one ``Verifier``.
It owns a request's committed
tokens, which are the only truth: drafters and verifiers that lost theirs are sent them again, and a drafter that is missing,
late or wrong contributes an empty tree. So the steps it yields depend on the verifier's decisions alone. The next step is under way while
the caller has the last one in hand, and where nothing is drafted the verifier makes many without being asked for each: what is done with
tokens and the ways between the services cost no time of the models.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Protocol

from specgrove.drafting import Drafter, Drafting, remaining_ms
from specgrove.errors import InternalError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.probing import Probing
from specgrove.request import (
    MAX_NUM_STEPS_AHEAD,
    CommittedToken,
    FinishReason,
    GenerationRequest,
    PromptProgress,
    SessionParams,
    Step,
    TreeShape,
    Verdict,
    VerifyWork,
)
from specgrove.token_tree import TokenTree

logger = logging.getLogger(__name__)

# Steps that the verifier makes by itself while drafters read what they lack.
_NUM_STEPS_WHILE_READING = 2
_LONG_PROMPT_LEN = 512
# A verifier that loses the session this often in one step will never keep it.
_MAX_NUM_REPLAYS = 20
# A request that what computes it died of, or failed with, is replayed once.
_MAX_NUM_LOSSES = 2
_WITHOUT_DRAFTERS = TreeShape(max_num_nodes=0, max_depth=0, num_steps=MAX_NUM_STEPS_AHEAD)


class Verifier(Protocol):
    """The large model. Raises ``StaleBaseError`` or ``UnavailableError`` where the loop should replay; other errors are final.

    Suspects (``VerifyWork.is_suspect``) run one at a time until their next verdict.
    """

    def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """Takes the committed tokens in and decides on the tree below them; then the verdicts of the work's further steps.

        Progress may come before the first verdict, where the session asks for it.
        """
        ...

    async def close(self, session_id: str) -> None:
        """Forgets a session. Never raises ``SpecGroveError``."""
        ...


class TreePolicy(Protocol):
    """Chooses the shape of a session's next trees. One object per request."""

    def shape(self) -> TreeShape:
        """The shape for the next step."""
        ...

    def observe(self, step: Step) -> None:
        """Learns from a step that was made."""
        ...


async def generate(
    request: GenerationRequest,
    drafters: Sequence[Drafter],
    verifier: Verifier,
    policy: TreePolicy,
    *,
    vocab_size: int,
    context_len: int,
) -> AsyncGenerator[Step, None]:
    """Yields the steps of one request until a stop token, ``max_tokens`` or the end of the context (``context_len`` tokens).

    Closing the generator early (stop strings, a client that left) closes the sessions on both sides. Raises
    ``DeadlineExceededError``, or what the verifier finally raised.
    """
    committed = list(request.prompt_token_ids)
    max_len = min(len(committed) + request.max_tokens, context_len)
    drafting = Drafting(request, drafters, vocab_size)
    probing = Probing(drafting)
    verifying = _Verifying(request, verifier)

    def next_shape(num_left: int) -> TreeShape:
        """What the policy wants, as far as it can be had now: reading in the background, and how far the verifier goes by itself."""
        shape = policy.shape() if drafters else _WITHOUT_DRAFTERS
        if shape.max_num_nodes > 0:
            probing.call_off()
            # The first tree is empty, so that no drafter delays the first token. A long prompt is read by both sides at once. A short one
            # is not read before it is known that drafts are wanted still: of requests that come at once the first can't see the others.
            is_first = len(committed) == len(request.prompt_token_ids)
            if not is_first and not drafting.is_behind(committed):
                # A tree of depth d commits up to d + 1 tokens: deeper nodes than that can't be used any more.
                return replace(shape, max_depth=min(shape.max_depth, num_left - 1), num_steps=1)
            if not is_first or len(committed) > _LONG_PROMPT_LEN:
                drafting.take_in(committed)
            shape = replace(_WITHOUT_DRAFTERS, num_steps=1 if is_first else _NUM_STEPS_WHILE_READING)
        if shape.probe is not None:
            probing.start(committed, shape.probe)
        return replace(shape, num_steps=min(shape.num_steps, num_left))

    async def make_step() -> Step:
        started_s = time.perf_counter()
        num_left = max_len - len(committed)
        ssms: tuple[str, ...] = ()
        tree, draft_ms, shape = TokenTree.of_root(committed[-1]), 0.0, _WITHOUT_DRAFTERS
        if not verifying.is_ahead:
            shape = next_shape(num_left)
            tree, ssms, draft_ms = await drafting.draft(committed, shape)
        verdict, num_replays = await verifying.verify(committed, tree, shape.num_steps)
        if isinstance(verdict, PromptProgress):
            return Step.of_progress(min(verdict.num_tokens, len(request.prompt_token_ids)), num_replays)
        step = _step_of(
            verdict,
            tree,
            ssms,
            num_tokens_left=num_left,
            stop_token_ids=request.sampling.stop_token_ids,
            draft_ms=draft_ms,
            num_replays=num_replays,
        )
        return replace(
            step,
            asked_depth=shape.max_depth,
            wall_ms=(time.perf_counter() - started_s) * 1e3,
            probe=probing.result(committed),
            reading=drafting.take_reading(),
        )

    upcoming = asyncio.ensure_future(make_step())

    async def end() -> None:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
        await probing.close()
        await asyncio.gather(verifying.close(), drafting.close())

    try:
        while True:
            step = await upcoming
            committed.extend(token.token_id for token in step.tokens)
            if step.num_prompt_tokens_read is None:
                policy.observe(step)
            if step.finish_reason is not None:
                yield step
                return
            upcoming = asyncio.ensure_future(make_step())
            # So that it is sent before the caller gets to work: made in one tick of the loop, written in the next.
            for _ in range(2):
                await asyncio.sleep(0)
            yield step
    finally:
        # As a whole: a deadline that passes here as well as at the server cancels the caller while it is at this very place.
        await asyncio.shield(end())


def _step_of(
    verdict: Verdict,
    tree: TokenTree,
    ssms: tuple[str, ...],
    *,
    num_tokens_left: int,
    stop_token_ids: tuple[int, ...],
    draft_ms: float,
    num_replays: int,
) -> Step:
    """The verdict cut off at the first stop token or the last token allowed, with each token's drafters by name."""
    num_tokens = min(len(verdict.token_ids), num_tokens_left)
    finish_reason = FinishReason.LENGTH if num_tokens == num_tokens_left else None
    for index in range(num_tokens):
        if verdict.token_ids[index] in stop_token_ids:
            num_tokens, finish_reason = index + 1, FinishReason.STOP
            break
    drafted_by = [_names(tree.sources[node], ssms) for node in verdict.accepted_nodes]
    tokens = tuple(
        CommittedToken(
            verdict.token_ids[index],
            drafted_by[index] if index < len(drafted_by) else (),
            verdict.log_probs[index] if verdict.log_probs else None,
        )
        for index in range(num_tokens)
    )
    return Step(
        tokens=tokens,
        finish_reason=finish_reason,
        num_drafted_nodes=tree.num_nodes - 1,
        drafted_depth=max(tree.depths()),
        accepted_depth=min(len(verdict.accepted_nodes), num_tokens),
        draft_ms=draft_ms,
        verify_ms=verdict.step_ms,
        verify_num_tokens=verdict.step_num_tokens,
        num_replays=num_replays,
        num_steps=verdict.num_steps,
    )


def _names(sources: int, ssms: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for index, name in enumerate(ssms) if sources >> index & 1)


class _Verifying:
    """The verifier's side of one request: knows what the verifier holds, and replays when it holds less.

    Of the works that are lost together with a process or a step one may be to blame, and most are not. So each is replayed as a suspect,
    apart from the others, till its next verdict clears it. What is lost while it is the only suspect, or was the only work at all,
    counts against the request, and the second time it is given up; what was lost in company doesn't. So the innocent, who
    may see many processes die, are not blamed, and the guilty costs three processes at most, or two if it was alone.
    """

    def __init__(self, request: GenerationRequest, verifier: Verifier) -> None:
        self._request = request
        self._verifier = verifier
        self._session = SessionParams(request.sampling, len(request.prompt_token_ids), request.wants_prompt_progress)
        self._held_len = 0
        self._is_suspect = False
        self._num_losses = 0
        self._verdicts: AsyncGenerator[Verdict | PromptProgress, None] | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether the verifier makes the next step already, without a tree."""
        return self._verdicts is not None

    async def verify(
        self, committed: list[int], tree: TokenTree, num_steps: int
    ) -> tuple[Verdict | PromptProgress, int]:
        """The next verdict or the progress made towards it, and how often the committed tokens had to be sent anew.

        Up to ``num_steps - 1`` more are made ahead; while they are, ``tree`` must be empty.
        """
        for num_replays in range(_MAX_NUM_REPLAYS):
            timeout_ms = remaining_ms(self._request.deadline_s)
            if self._verdicts is None:
                self._verdicts = self._verifier.verify(self._work(committed, tree, num_steps, timeout_ms))
            try:
                verdict = await anext(self._verdicts, None)
            except StaleBaseError as error:
                logger.info(
                    "session %s: verifier holds %d of %d tokens",
                    self._request.session_id,
                    error.held_len,
                    len(committed),
                )
                self._verdicts = None
                self._held_len = error.held_len if error.held_len <= len(committed) else 0
                continue
            except UnavailableError as error:
                self._count_loss(error)
                logger.warning("session %s: %s; replaying %d tokens", self._request.session_id, error, len(committed))
                self._verdicts = None
                self._held_len = 0
                continue
            if isinstance(verdict, PromptProgress):
                return verdict, num_replays
            if verdict is None or verdict.base != len(committed) or not verdict.token_ids:
                answer = "nothing" if verdict is None else f"for base {verdict.base}"
                raise InternalError(f"the verifier answered {answer} when asked about base {len(committed)}")
            self._held_len = verdict.base + len(verdict.token_ids)
            self._is_suspect, self._num_losses = False, 0
            if not verdict.has_more:
                await self._end_verdicts()
            return verdict, num_replays
        raise UnavailableError(f"no verifier kept the session alive in {_MAX_NUM_REPLAYS} attempts; try again later")

    def _count_loss(self, error: UnavailableError) -> None:
        if not isinstance(error, WorkLostError):
            return  # a replica that is away or draining is nobody's fault
        self._num_losses += self._is_suspect or error.was_alone
        self._is_suspect = True
        if self._num_losses >= _MAX_NUM_LOSSES:
            raise InternalError(f"this request made the service fail twice ({error})") from error

    def _work(self, committed: list[int], tree: TokenTree, num_steps: int, timeout_ms: int | None) -> VerifyWork:
        base = self._held_len
        return VerifyWork(
            session_id=self._request.session_id,
            base=base,
            new_token_ids=tuple(committed[base:]),
            tree=tree,
            session=self._session if base == 0 else None,
            timeout_ms=timeout_ms,
            num_steps=num_steps,
            is_suspect=self._is_suspect,
        )

    async def _end_verdicts(self) -> None:
        verdicts, self._verdicts = self._verdicts, None
        if verdicts is not None:
            await verdicts.aclose()

    async def close(self) -> None:
        await self._end_verdicts()
        await self._verifier.close(self._request.session_id)
