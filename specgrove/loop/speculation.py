"""The speculation loop: draft, verify, commit. Written once, run in-process and over the network.

Called by the router's servicer, and by tests and benchmarks in one process, with any ``Drafter``s and one ``Verifier``.
A session owns its request's committed
tokens, which are the only truth: drafters and verifiers that lost theirs are sent them again, and a drafter that is missing,
late or wrong contributes an empty tree. So the steps depend on the verifier's decisions alone. The next step is under way while
the caller has the last one in hand, and where nothing is drafted the verifier makes many without being asked for each: what is done with
tokens and the ways between the services cost no time of the models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from specgrove.errors import DeadlineExceededError
from specgrove.loop.drafter_side import Drafter
from specgrove.loop.drafting import Correct, Drafting, MergedTree, SsmChoice, as_told
from specgrove.loop.output import Step
from specgrove.loop.planning import Planning, TreePolicy
from specgrove.loop.probing import Probing
from specgrove.loop.request import GenerationRequest
from specgrove.loop.steps import step_of
from specgrove.loop.told import HiddenRoom, Told
from specgrove.loop.verifier_knowledge import NO_WISHES, DrafterWishes
from specgrove.loop.verifying import Verifier, Verifying
from specgrove.loop.works import PromptProgress, Verdict


class Session:
    """One request's loop, a task between two mailboxes: what the verifier answers comes in, steps go out to the caller.

        async with Session(request, drafters, verifier, policy, vocab_size=..., max_model_len=...) as session:
            async for step in session: ...

    The steps end with a stop token, ``max_tokens`` or the end of the context. Leaving the block, early (stop texts, a client that left)
    or not, closes the sessions on both sides.
    """

    def __init__(
        self,
        request: GenerationRequest,
        drafters: Sequence[Drafter],
        verifier: Verifier,
        policy: TreePolicy,
        *,
        vocab_size: int,
        max_model_len: int,
        correct: Correct = as_told,
        wishes: DrafterWishes = NO_WISHES,
        choose_ssms: SsmChoice | None = None,
        hidden_room: HiddenRoom | None = None,
    ) -> None:
        """``max_model_len`` bounds prompt and output together, in tokens; SSMs' probabilities are corrected by ``correct``.

        ``wishes``: what the verifier can tell, and shall tell, the drafters. ``choose_ssms`` is asked before each draft; without it the
        request's own SSMs are. Sessions with one ``hidden_room`` keep hidden states in it.
        """
        drafters = drafters if request.max_tokens > 0 else ()
        self._request = request
        self._policy = policy
        self._committed = [*request.prompt_token_ids, *request.resumed_token_ids]
        self._max_len = min(len(request.prompt_token_ids) + request.max_tokens, max_model_len)
        told = self._told = Told(wishes if drafters else NO_WISHES, hidden_room)
        self._drafting = Drafting(request, drafters, vocab_size, told, correct, choose_ssms)
        self._probing = Probing(self._drafting)
        self._verifying = Verifying(request, verifier, told)
        self._planning = Planning(
            policy if drafters else None, self._drafting, self._probing, self._verifying, len(self._committed)
        )
        self._steps: asyncio.Queue[Step | None] = asyncio.Queue()  # None: the loop has ended
        self._running: asyncio.Task[None]

    async def _speculate(self) -> None:
        """The loop: draft, verify, commit."""
        committed, step = self._committed, None
        while step is None or step.finish_reason is None:
            await self._steps.join()  # the caller has taken the step before the last one
            started_s, num_left = time.perf_counter(), self._max_len - len(committed)
            shape = self._planning.next_shape(committed, num_left)
            drafts = self._drafting.ask(committed, shape)
            if step is not None:
                self._steps.put_nowait(step)  # now that drafters are asked: the caller works while they do
            tree = await drafts.merged()  # drafters that go ahead grow it while it is verified: for the next one
            verify_started_s = time.perf_counter()
            verdict = await self._verifying.verify(committed, tree.tree, shape)
            while isinstance(verdict, PromptProgress):  # no step: the verdict on this tree is still to come
                await self._steps.join()
                self._steps.put_nowait(self._progress_step(verdict))
                verdict = await self._verifying.verify(committed, tree.tree, shape)
            if tree.tree.num_nodes > 1:
                self._drafting.note_verified((time.perf_counter() - verify_started_s) * 1e3)
            step = self._step(verdict, tree, num_left, started_s)
            committed.extend(token.token_id for token in step.tokens)
            self._policy.observe(step)
        self._steps.put_nowait(step)

    def _progress_step(self, progress: PromptProgress) -> Step:
        """Told as a step without tokens. A replay reads the output, too, which is not counted. Replays are the verdict's."""
        num_read = min(progress.num_tokens, len(self._request.prompt_token_ids))
        return Step.of_progress(replace(progress, num_tokens=num_read))

    def _step(self, verdict: Verdict, tree: MergedTree, num_left: int, started_s: float) -> Step:
        return step_of(
            verdict,
            tree,
            num_tokens_left=num_left,
            stop_token_ids=self._request.sampling.stop_token_ids,
            num_replays=self._verifying.num_replays,
            wall_ms=(time.perf_counter() - started_s) * 1e3,
            probe=self._probing.result(self._committed),
            reading=self._drafting.take_reading(),
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Step:
        """The next step. Raises ``DeadlineExceededError``, or what the verifier finally raised."""
        step = await self._steps.get()
        self._steps.task_done()
        if step is None:
            await self._running
            raise StopAsyncIteration
        return step

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        try:
            # The event loop's clock is the deadline's.
            async with asyncio.timeout_at(self._request.deadline_s):
                await self._speculate()
        except TimeoutError:
            raise DeadlineExceededError("the request's deadline passed") from None
        finally:
            self._steps.put_nowait(None)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # As a whole: a deadline that passes here as well as at the server cancels the caller while it is at this very place.
        try:
            await asyncio.shield(self._close())
        except asyncio.CancelledError:
            if error is None:
                raise
            # The block has ended with an error before, and that is what is told.

    async def _close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._probing.close()
        self._told.close()
        await asyncio.gather(self._verifying.close(), self._drafting.close())
