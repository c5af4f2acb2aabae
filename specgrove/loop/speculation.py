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
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Protocol

from specgrove.loop.drafting import Drafter, Drafting
from specgrove.loop.probing import Probing
from specgrove.loop.request import (
    MAX_NUM_STEPS_AHEAD,
    CommittedToken,
    FinishReason,
    GenerationRequest,
    PromptProgress,
    Step,
    TreeShape,
    Verdict,
    VerifiedTree,
)
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifying import Verifier, Verifying

# Steps that the verifier makes by itself while drafters read what they lack.
_NUM_STEPS_WHILE_READING = 2
_LONG_PROMPT_LEN = 512
_WITHOUT_DRAFTERS = TreeShape(max_num_nodes=0, max_depth=0, num_steps=MAX_NUM_STEPS_AHEAD)


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
    drafters = drafters if request.max_tokens > 0 else ()
    max_len = min(len(committed) + request.max_tokens, context_len)
    drafting = Drafting(request, drafters, vocab_size)
    probing = Probing(drafting)
    verifying = Verifying(request, verifier)
    planning = _Planning(policy if drafters else None, drafting, probing, len(committed))

    async def make_step() -> Step:
        started_s = time.perf_counter()
        num_left = max_len - len(committed)
        ssms: tuple[str, ...] = ()
        tree, draft_ms, shape = TokenTree.of_root(committed[-1]), 0.0, _WITHOUT_DRAFTERS
        if verifying.is_ahead:
            if planning.wants_tree_after_all(committed):
                verifying.finish_early()
        else:
            shape = planning.next_shape(committed, num_left)
            tree, ssms, draft_ms = await drafting.draft(committed, shape)
        verdict, num_replays = await verifying.verify(committed, tree, shape.num_steps)
        if isinstance(verdict, PromptProgress):
            num_read = min(verdict.num_tokens, len(request.prompt_token_ids))
            return Step.of_progress(replace(verdict, num_tokens=num_read), num_replays)
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


class _Planning:
    """What the policy wants, as far as it can be had now: reading in the background, and how far the verifier goes by itself."""

    def __init__(self, policy: TreePolicy | None, drafting: Drafting, probing: Probing, prompt_len: int) -> None:
        """Without a policy nothing is drafted."""
        self._policy = policy
        self._drafting = drafting
        self._probing = probing
        self._prompt_len = prompt_len
        self._doubt_len: int | None = None
        """Where the verifier goes on by itself for want of knowledge: the committed length at which the policy is asked."""

    def next_shape(self, committed: list[int], num_left: int) -> TreeShape:
        """For a step that the verifier has to be asked for."""
        shape, self._doubt_len = self._wanted(committed), None
        if shape.max_num_nodes > 0:
            if not self._drafting.is_behind(committed):
                # A tree of depth d commits up to d + 1 tokens: deeper nodes than that can't be used any more.
                return replace(shape, max_depth=min(shape.max_depth, num_left - 1), num_steps=1)
            shape = self._while_behind(committed)
        return replace(shape, num_steps=max(min(shape.num_steps, num_left), 1))

    def _while_behind(self, committed: list[int]) -> TreeShape:
        """The first tree is empty, so that no drafter delays the first token. A long prompt is read by both sides at once.

        A short one is not read before it is known that drafts are wanted still: of requests that come at once the first can't see the
        others. So the verifier goes on by itself after the first verdict, and is told to stop where they are.
        """
        is_first = len(committed) == self._prompt_len
        if is_first and len(committed) <= _LONG_PROMPT_LEN:
            self._doubt_len = len(committed) + 1
            return _WITHOUT_DRAFTERS
        self._drafting.take_in(committed)
        return replace(_WITHOUT_DRAFTERS, num_steps=1 if is_first else _NUM_STEPS_WHILE_READING)

    def wants_tree_after_all(self, committed: list[int]) -> bool:
        """While the verifier goes on by itself: true once, when a tree is to follow what is under way. Drafters then read."""
        if self._doubt_len is None or len(committed) < self._doubt_len:
            return False
        shape = self._wanted(committed)
        if shape.max_num_nodes == 0:
            self._doubt_len = len(committed) + shape.num_steps
            return False
        self._doubt_len = None
        self._drafting.take_in(committed)
        return True

    def _wanted(self, committed: list[int]) -> TreeShape:
        shape = _WITHOUT_DRAFTERS if self._policy is None else self._policy.shape()
        if shape.max_num_nodes > 0:
            self._probing.call_off()
        elif shape.probe is not None:
            self._probing.start(committed, shape.probe)
        return shape


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
    verified = VerifiedTree(tree, ssms, verdict.accepted_nodes)
    drafted_by = [verified.drafted_by(node) for node in verdict.accepted_nodes]
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
        verify_ms=verdict.pass_ms,
        verify_num_rows=verdict.pass_num_rows,
        num_replays=num_replays,
        num_steps=verdict.num_steps,
        drafted_by_ssm=_num_nodes_by_ssm(tree, ssms),
        verified=verified if tree.num_nodes > 1 else None,
    )


def _num_nodes_by_ssm(tree: TokenTree, ssms: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    nums = [0] * len(ssms)
    for sources, num in Counter(tree.sources[1:]).items():  # nodes share few sets of SSMs
        for index in range(sources.bit_length()):
            if sources >> index & 1:
                nums[index] += num
    return tuple((name, num) for name, num in zip(ssms, nums, strict=True) if num)
