"""The speculation loop: draft, merge, verify, commit. Written once, run in-process and over the network.

Called by the router's servicer and by the Python API with any ``Drafter``s and one ``Verifier``. It owns a request's committed
tokens, which are the only truth: drafters and verifiers that lost theirs are sent them again, and a drafter that is missing,
late or wrong contributes an empty tree. So the steps it yields depend on the verifier's decisions alone. The next step is under way while
the caller has the last one in hand: what is done with tokens costs no time of the models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Protocol

from specgrove.drafting import Drafter, Drafting, remaining_ms
from specgrove.errors import InternalError, StaleBaseError, UnavailableError
from specgrove.request import (
    CommittedToken,
    FinishReason,
    GenerationRequest,
    SessionParams,
    Step,
    TreeShape,
    Verdict,
    VerifyWork,
)
from specgrove.token_tree import TokenTree

logger = logging.getLogger(__name__)

# A verifier that loses the session this often in one step has no room for it.
_MAX_NUM_REPLAYS = 20


class Verifier(Protocol):
    """The large model. Raises ``StaleBaseError`` or ``UnavailableError`` where the loop should replay; other errors are final."""

    async def verify(self, work: VerifyWork) -> Verdict:
        """Takes the committed tokens in and decides on the tree below them."""
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
    verifying = _Verifying(request, verifier)

    async def make_step(shape: TreeShape | None) -> Step:
        if shape is None:
            # The prompt is read by both sides at once: the first tree is empty, so that no drafter delays the first token.
            drafting.take_in(committed)
            tree, draft_ms = TokenTree.of_root(committed[-1]), 0.0
            ssms: tuple[str, ...] = ()
        else:
            # A tree of depth d commits up to d + 1 tokens: deeper nodes than that can't be used any more.
            shape = replace(shape, max_depth=min(shape.max_depth, max_len - len(committed) - 1))
            tree, ssms, draft_ms = await drafting.draft(committed, shape)
        verdict, num_replays = await verifying.verify(committed, tree)
        return _step_of(
            verdict,
            tree,
            ssms,
            num_tokens_left=max_len - len(committed),
            stop_token_ids=request.sampling.stop_token_ids,
            draft_ms=draft_ms,
            num_replays=num_replays,
        )

    upcoming = asyncio.ensure_future(make_step(None))
    try:
        while True:
            step = await upcoming
            committed.extend(token.token_id for token in step.tokens)
            policy.observe(step)
            if step.finish_reason is not None:
                yield step
                return
            upcoming = asyncio.ensure_future(make_step(policy.shape()))
            for _ in range(
                2
            ):  # so that it is sent before the caller gets to work: made in one tick, written in the next
                await asyncio.sleep(0)
            yield step
    finally:
        upcoming.cancel()
        await asyncio.gather(upcoming, return_exceptions=True)
        await asyncio.shield(asyncio.gather(verifying.close(), drafting.close()))


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
    )


def _names(sources: int, ssms: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for index, name in enumerate(ssms) if sources >> index & 1)


class _Verifying:
    """The verifier's side of one request: knows what the verifier holds, and replays when it holds less."""

    def __init__(self, request: GenerationRequest, verifier: Verifier) -> None:
        self._request = request
        self._verifier = verifier
        self._session = SessionParams(request.sampling, len(request.prompt_token_ids))
        self._held_len = 0

    async def verify(self, committed: list[int], tree: TokenTree) -> tuple[Verdict, int]:
        """The verdict, and how often the committed tokens had to be sent anew."""
        for num_replays in range(_MAX_NUM_REPLAYS):
            base = self._held_len
            work = VerifyWork(
                session_id=self._request.session_id,
                base=base,
                new_token_ids=tuple(committed[base:]),
                tree=tree,
                session=self._session if base == 0 else None,
                timeout_ms=remaining_ms(self._request.deadline_s),
            )
            try:
                verdict = await self._verifier.verify(work)
            except StaleBaseError as error:
                logger.info(
                    "session %s: verifier holds %d of %d tokens", work.session_id, error.held_len, len(committed)
                )
                self._held_len = error.held_len if error.held_len <= len(committed) else 0
                continue
            except UnavailableError as error:
                logger.warning("session %s: %s; replaying %d tokens", work.session_id, error, len(committed))
                self._held_len = 0
                continue
            if verdict.base != len(committed) or not verdict.token_ids:
                raise InternalError(
                    f"the verifier answered for base {verdict.base} when asked about base {len(committed)}"
                )
            self._held_len = verdict.base + len(verdict.token_ids)
            return verdict, num_replays
        raise UnavailableError(f"no verifier kept the session alive in {_MAX_NUM_REPLAYS} attempts; try again later")

    async def close(self) -> None:
        await self._verifier.close(self._request.session_id)
