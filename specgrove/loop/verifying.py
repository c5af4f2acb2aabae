"""The verifier's side of one request: sends it what it lacks, and replays where a replica lost the session or died.

Used by the loop in ``specgrove.loop.speculation``. Invariant: the verdict that the loop gets extends exactly its committed tokens.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from specgrove.errors import InternalError, StaleBaseError, UnavailableError, WorkLostError
from specgrove.loop.deadlines import remaining_ms
from specgrove.loop.request import GenerationRequest
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.told import Told
from specgrove.loop.works import PromptProgress, SessionParams, TreeShape, Verdict, VerifyWork

logger = logging.getLogger(__name__)

# A verifier that loses the session this often in one step will never keep it.
_MAX_NUM_REPLAYS = 20
# A request that what computes it died of, or failed with, is replayed once.
_MAX_NUM_LOSSES = 2
_NO_TREE = TreeShape(max_num_nodes=0, max_depth=0)


class VerifierSession(Protocol):
    """One request at a verifier: one work at a time, and a mailbox for what comes of it.

    Both ``ask`` and ``answer`` raise ``StaleBaseError`` or ``UnavailableError`` where the loop should replay; other errors are final.
    """

    async def ask(self, work: VerifyWork) -> None:
        """Sends a work, as soon as there is who takes it: a suspect (``VerifyWork.is_suspect``) waits till it is the only one."""
        ...

    async def answer(self) -> Verdict | PromptProgress:
        """The next of the verdicts on what was asked: on the tree below the committed tokens, then those of the work's further steps.

        Progress may come before the first verdict, where the session asks for it. All log-probabilities of the prompt that it asks for
        come so.
        """
        ...

    def finish_early(self) -> None:
        """Makes the next verdict of the work its last one, those aside that have been made. Never raises.

        It saves steps that nobody wants; one that comes late, or is lost, changes no token. Nothing happens where no work is under way.
        """
        ...

    async def close(self) -> None:
        """Forgets the request. Never raises ``SpecGroveError``."""
        ...


class Verifier(Protocol):
    """The large model."""

    def session(self, session_id: str) -> VerifierSession:
        """For one request."""
        ...


class Verifying:
    """The verifier's side of one request: knows what the verifier holds, and replays when it holds less.

    Of the works that are lost together with a process or a step one may be to blame, and most are not. So each is replayed as a suspect,
    apart from the others, till its next verdict clears it. What is lost while it is the only suspect, or was the only work at all,
    counts against the request, and the second time it is given up; what was lost in company doesn't. So the innocent, who
    may see many processes die, are not blamed, and the guilty costs three processes at most, or two if it was alone.
    """

    def __init__(self, request: GenerationRequest, verifier: Verifier, told: Told) -> None:
        self._request = request
        self._session = verifier.session(request.session_id)
        self._params = SessionParams(
            request.sampling,
            len(request.prompt_token_ids),
            request.wants_prompt_progress,
            request.trace_context,
            request.num_prompt_log_probs,
            hidden_layers=told.wishes.hidden_layers,
            hidden_window=told.wishes.hidden_window,
            num_row_top_k=told.wishes.num_row_top_k,
            cache_salt=request.cache_salt,
        )
        self._told = told
        self._held_len = 0
        self._is_suspect = False
        self._num_losses = 0
        self._num_steps_left = 0  # of the work under way, as far as it is known
        self._shape = _NO_TREE  # what that work was asked for
        self.is_ahead = False
        """Whether the next answer needs no asking: after a verdict, whether the verifier makes the next step already, without a tree."""
        self.num_replays = 0
        """How often the committed tokens had to be sent anew for the last verdict, or on the way to the next one."""
        self._has_verdict = False  # whether the last answer was one

    async def verify(self, committed: list[int], tree: TokenTree, shape: TreeShape) -> Verdict | PromptProgress:
        """The next verdict on a tree of this shape, or the progress made towards it: then the same tree is to be given again.

        Up to ``shape.num_steps - 1`` more are made ahead; while they are, ``tree`` must be empty and ``shape`` counts no more.
        """
        if not self.is_ahead:
            self._num_steps_left, self._shape = shape.num_steps, shape
        if self._has_verdict:
            self.num_replays, self._has_verdict = 0, False
        while self.num_replays < _MAX_NUM_REPLAYS:
            try:
                if not self.is_ahead:
                    await self._session.ask(self._work(committed, tree))
                    self.is_ahead = True
                answer = self._checked(await self._next_answer(), len(committed))
                if isinstance(answer, Verdict):
                    _check_nodes(answer, tree)
                    self._has_verdict = True
                return answer
            except StaleBaseError as error:
                logger.info("verifier holds %d of %d tokens", error.held_len, len(committed))
                is_ours = error.held_len <= len(committed) and not self._lacks_log_probs
                self._held_len = error.held_len if is_ours else 0
            except UnavailableError as error:
                self._count_loss(error)
                logger.warning("%s; replaying %d tokens", error, len(committed))
                self._held_len = 0
            self.is_ahead = False
            self.num_replays += 1
        raise UnavailableError(f"no verifier kept the session alive in {_MAX_NUM_REPLAYS} attempts; try again later")

    @property
    def tells_hidden_states(self) -> bool:
        """Whether the work under way has the verifier tell some."""
        return self._shape.wants_hidden_states and bool(self._params.hidden_layers)

    async def _next_answer(self) -> Verdict | PromptProgress:
        """The next one that is not for drafters alone."""
        while True:
            answer = await self._session.answer()
            self._told.add(answer)
            if not isinstance(answer, PromptProgress) or answer.hidden_states is None:
                return answer
            if answer.log_probs:
                return replace(answer, hidden_states=None)

    def _checked(self, answer: Verdict | PromptProgress, num_committed: int) -> Verdict | PromptProgress:
        """Notes what the verifier holds now. Raises ``InternalError`` for an answer to something else."""
        if isinstance(answer, PromptProgress):
            return self._take_log_probs(answer)
        if self._lacks_log_probs:
            raise InternalError("the verifier gave a verdict before the prompt's log-probabilities")
        if answer.base != num_committed or not answer.token_ids:
            raise InternalError(f"the verifier answered for base {answer.base} when asked about base {num_committed}")
        self._held_len = answer.base + len(answer.token_ids)
        self._num_steps_left = max(self._num_steps_left - answer.num_steps, 1)
        self._is_suspect, self._num_losses = False, 0
        self.is_ahead = answer.has_more
        return answer

    @property
    def _lacks_log_probs(self) -> bool:
        params = self._params
        return params.num_prompt_log_probs is not None and params.prompt_log_probs_start < params.prompt_len

    def _take_log_probs(self, progress: PromptProgress) -> PromptProgress:
        """Without those that are known: a session that is opened anew may tell them again. The others are the next ones."""
        if not progress.log_probs:
            return progress
        start = self._params.prompt_log_probs_start
        if progress.log_probs_start > start:
            told = f"from place {progress.log_probs_start} on"
            raise InternalError(
                f"the verifier told the prompt's log-probabilities {told}; wanted are those from {start} on"
            )
        new = progress.log_probs[start - progress.log_probs_start :]
        self._params = replace(self._params, prompt_log_probs_start=start + len(new))
        return PromptProgress(progress.num_tokens, start, new)

    def finish_early(self) -> None:
        """One more step is enough; those that have been made come all the same."""
        self._num_steps_left = 1
        self._session.finish_early()

    def _count_loss(self, error: UnavailableError) -> None:
        if not isinstance(error, WorkLostError):
            return  # a replica that is away or draining is nobody's fault
        self._num_losses += self._is_suspect or error.was_alone
        self._is_suspect = True
        if self._num_losses >= _MAX_NUM_LOSSES:
            raise InternalError(f"this request made the service fail twice ({error})") from error

    def _work(self, committed: list[int], tree: TokenTree) -> VerifyWork:
        base = self._held_len
        return VerifyWork(
            session_id=self._request.session_id,
            base=base,
            new_token_ids=tuple(committed[base:]),
            tree=tree,
            session=self._params_to_open() if base == 0 else None,
            timeout_ms=remaining_ms(self._request.deadline_s),
            num_steps=self._num_steps_left,
            is_suspect=self._is_suspect,
            may_leave_out_nodes=self._shape.prices is not None,
            tells_hidden_states=self._shape.wants_hidden_states,
        )

    def _params_to_open(self) -> SessionParams:
        return self._params if self._lacks_log_probs else replace(self._params, num_prompt_log_probs=None)

    async def close(self) -> None:
        """Closes the session."""
        await self._session.close()


def _check_nodes(verdict: Verdict, tree: TokenTree) -> None:
    """Raises ``InternalError`` unless the nodes that a verdict names are the tree's, and those that it left out could be."""
    accepted, left_out = set(verdict.accepted_nodes), set(verdict.left_out_nodes)
    if strange := sorted(node for node in accepted | left_out if not 0 < node < tree.num_nodes):
        raise InternalError(f"the verifier told of nodes {strange} of a tree of {tree.num_nodes}")
    if both := sorted(accepted & left_out):
        raise InternalError(f"the verifier accepted nodes {both} and left them out")
    for node in range(1, tree.num_nodes) if left_out else ():
        if tree.parents[node] in left_out and node not in left_out:
            raise InternalError(f"the verifier left out node {tree.parents[node]} and verified node {node} below it")
