"""The verifier's side of one request: sends it what it lacks, and replays where a replica lost the session or died.

Used by the loop in ``specgrove.loop.speculation``. Invariant: the verdict that the loop gets extends exactly its committed tokens.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Protocol

from specgrove.errors import InternalError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.loop.drafting import remaining_ms
from specgrove.loop.request import GenerationRequest, PromptProgress, SessionParams, Verdict, VerifyWork
from specgrove.loop.token_tree import TokenTree

logger = logging.getLogger(__name__)

# A verifier that loses the session this often in one step will never keep it.
_MAX_NUM_REPLAYS = 20
# A request that what computes it died of, or failed with, is replayed once.
_MAX_NUM_LOSSES = 2


class Verifier(Protocol):
    """The large model. Raises ``StaleBaseError`` or ``UnavailableError`` where the loop should replay; other errors are final.

    Suspects (``VerifyWork.is_suspect``) run one at a time until their next verdict.
    """

    def verify(self, work: VerifyWork) -> AsyncGenerator[Verdict | PromptProgress, None]:
        """Takes the committed tokens in and decides on the tree below them; then the verdicts of the work's further steps.

        Progress may come before the first verdict, where the session asks for it. All log-probabilities of the prompt that it asks for
        come so.
        """
        ...

    def finish_early(self, session_id: str) -> None:
        """Makes the next verdict of the session's work its last one, those aside that have been made. Never raises.

        It saves steps that nobody wants; one that comes late, or is lost, changes no token. Nothing happens where no work is under way.
        """
        ...

    async def close(self, session_id: str) -> None:
        """Forgets a session. Never raises ``SpecGroveError``."""
        ...


class Verifying:
    """The verifier's side of one request: knows what the verifier holds, and replays when it holds less.

    Of the works that are lost together with a process or a step one may be to blame, and most are not. So each is replayed as a suspect,
    apart from the others, till its next verdict clears it. What is lost while it is the only suspect, or was the only work at all,
    counts against the request, and the second time it is given up; what was lost in company doesn't. So the innocent, who
    may see many processes die, are not blamed, and the guilty costs three processes at most, or two if it was alone.
    """

    def __init__(self, request: GenerationRequest, verifier: Verifier) -> None:
        self._request = request
        self._verifier = verifier
        self._session = SessionParams(
            request.sampling,
            len(request.prompt_token_ids),
            request.wants_prompt_progress,
            request.trace_context,
            request.num_prompt_log_probs,
        )
        self._held_len = 0
        self._is_suspect = False
        self._num_losses = 0
        self._num_steps_left = 0  # of the work under way, as far as it is known
        self._verdicts: AsyncGenerator[Verdict | PromptProgress, None] | None = None

    @property
    def is_ahead(self) -> bool:
        """Whether the verifier makes the next step already, without a tree."""
        return self._verdicts is not None

    async def verify(
        self, committed: list[int], tree: TokenTree, num_steps: int
    ) -> tuple[Verdict | PromptProgress, int]:
        """The next verdict or the progress made towards it, and how often the committed tokens had to be sent anew.

        Up to ``num_steps - 1`` more are made ahead; while they are, ``tree`` must be empty and ``num_steps`` counts no more.
        """
        if not self.is_ahead:
            self._num_steps_left = num_steps
        for num_replays in range(_MAX_NUM_REPLAYS):
            timeout_ms = remaining_ms(self._request.deadline_s)
            if self._verdicts is None:
                self._verdicts = self._verifier.verify(self._work(committed, tree, timeout_ms))
            try:
                verdict = await anext(self._verdicts, None)
            except StaleBaseError as error:
                logger.info(
                    "verifier holds %d of %d tokens",
                    error.held_len,
                    len(committed),
                )
                self._verdicts = None
                is_ours = error.held_len <= len(committed) and not self._lacks_log_probs
                self._held_len = error.held_len if is_ours else 0
                continue
            except UnavailableError as error:
                self._count_loss(error)
                logger.warning("%s; replaying %d tokens", error, len(committed))
                self._verdicts = None
                self._held_len = 0
                continue
            if isinstance(verdict, PromptProgress):
                return self._take_log_probs(verdict), num_replays
            if verdict is not None and self._lacks_log_probs:
                raise InternalError("the verifier gave a verdict before the prompt's log-probabilities")
            if verdict is None or verdict.base != len(committed) or not verdict.token_ids:
                answer = "nothing" if verdict is None else f"for base {verdict.base}"
                raise InternalError(f"the verifier answered {answer} when asked about base {len(committed)}")
            self._held_len = verdict.base + len(verdict.token_ids)
            self._num_steps_left = max(self._num_steps_left - verdict.num_steps, 1)
            self._is_suspect, self._num_losses = False, 0
            if not verdict.has_more:
                await self._end_verdicts()
            return verdict, num_replays
        raise UnavailableError(f"no verifier kept the session alive in {_MAX_NUM_REPLAYS} attempts; try again later")

    @property
    def _lacks_log_probs(self) -> bool:
        session = self._session
        return session.num_prompt_log_probs is not None and session.prompt_log_probs_start < session.prompt_len

    def _take_log_probs(self, progress: PromptProgress) -> PromptProgress:
        """Without those that are known: a session that is opened anew may tell them again. The others are the next ones."""
        if not progress.log_probs:
            return progress
        start = self._session.prompt_log_probs_start
        if progress.log_probs_start > start:
            told = f"from place {progress.log_probs_start} on"
            raise InternalError(
                f"the verifier told the prompt's log-probabilities {told}; wanted are those from {start} on"
            )
        new = progress.log_probs[start - progress.log_probs_start :]
        self._session = replace(self._session, prompt_log_probs_start=start + len(new))
        return PromptProgress(progress.num_tokens, start, new)

    def finish_early(self) -> None:
        """One more step is enough; those that have been made come all the same."""
        self._num_steps_left = 1
        self._verifier.finish_early(self._request.session_id)

    def _count_loss(self, error: UnavailableError) -> None:
        if not isinstance(error, WorkLostError):
            return  # a replica that is away or draining is nobody's fault
        self._num_losses += self._is_suspect or error.was_alone
        self._is_suspect = True
        if self._num_losses >= _MAX_NUM_LOSSES:
            raise InternalError(f"this request made the service fail twice ({error})") from error

    def _work(self, committed: list[int], tree: TokenTree, timeout_ms: int | None) -> VerifyWork:
        base = self._held_len
        return VerifyWork(
            session_id=self._request.session_id,
            base=base,
            new_token_ids=tuple(committed[base:]),
            tree=tree,
            session=self._session_to_open() if base == 0 else None,
            timeout_ms=timeout_ms,
            num_steps=self._num_steps_left,
            is_suspect=self._is_suspect,
        )

    def _session_to_open(self) -> SessionParams:
        return self._session if self._lacks_log_probs else replace(self._session, num_prompt_log_probs=None)

    async def _end_verdicts(self) -> None:
        verdicts, self._verdicts = self._verdicts, None
        if verdicts is not None:
            await verdicts.aclose()

    async def close(self) -> None:
        await self._end_verdicts()
        await self._verifier.close(self._request.session_id)
