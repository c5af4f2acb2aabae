"""Which tokens a session's structured output may go on with, and where it may end. Owned by the session.

Invariant: what is allowed is a function of the sampling parameters and the output's tokens. So masks change nothing of what makes
speculation exact: at a tree's node they are those of incremental decoding.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.structures.grammars import GrammarCompiler, OutputMatcher
from specgrove.wire.structures import STRUCTURED_OUTPUT

# Of the engine's thread, for which all sessions wait: so much for one output, and so much more for each of its tokens. A token takes a
# tenth of a millisecond; of an ambiguous grammar, which clients may send, a second.
_MAX_S = 2.0
_MAX_S_PER_TOKEN = 0.02


class OutputStructure:
    """The structure, at some place of the output. One that takes too much of its thread's time ends with ``InvalidRequestError``."""

    def __init__(self, matcher: OutputMatcher, sampling: SamplingParams) -> None:
        self._matcher = matcher
        self._stop_token_ids = np.array(sampling.stop_token_ids, dtype=np.int64)
        self._stops = frozenset(sampling.stop_token_ids)
        self._min_tokens = sampling.min_tokens
        self._spent_s = 0.0

    def go_to(self, output_token_ids: Sequence[int]) -> None:
        """To the end of the committed output, from wherever a walk has left it."""
        if self._matcher.num_tokens > len(output_token_ids):
            self._matcher.rewind(len(output_token_ids))
        elif missing := output_token_ids[self._matcher.num_tokens :]:
            self._take(missing)

    def possible_nodes(self, tree: TokenTree, output_token_ids: Sequence[int]) -> list[int]:
        """The nodes of a tree below the committed output that can be accepted, and its root: no row need be spent on others.

        A stop token is none: it comes out all the same, as the bonus token, and nothing follows it.
        """
        try:
            self.go_to(output_token_ids)
        except InvalidRequestError:  # to be told when it comes to a choice
            return list(range(tree.num_nodes))
        paths: dict[int, list[int]] = {0: []}
        for node in range(1, tree.num_nodes):
            if self._is_too_slow:
                break
            if (before := paths.get(tree.parents[node])) is not None:
                path = [*before, tree.token_ids[node]]
                if path[-1] not in self._stops and self._is_possible(path):
                    paths[node] = path
        return list(paths)

    def take(self, token_id: int) -> bool:
        """The token that was chosen here; whether the output goes on."""
        if token_id in self._stops:
            return False
        self._take([token_id])
        return True

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits, float32 ``[vocab_size]``, minus infinity where a token isn't allowed. Raises ``InvalidRequestError`` where none is.

        A stop token is allowed where the output may end; before ``min_tokens`` only where nothing else is. One with a text may be
        allowed for its text, too.
        """
        if self._is_too_slow:
            raise _failed(f"after {self._matcher.num_tokens} tokens it has taken too much time: make it less ambiguous")
        try:
            with self._timed():
                allowed = self._matcher.allowed()
        except ValueError as error:
            raise _failed(error) from error
        mask = np.zeros(len(logits), dtype=np.bool_)
        num_ids = min(len(logits), len(allowed.tokens))
        mask[:num_ids] = allowed.tokens[:num_ids]
        if allowed.may_end:
            mask[self._stop_token_ids] = True
        if not mask.any():
            num_tokens = self._matcher.num_tokens
            raise _failed(f"after {num_tokens} tokens this model has none with which the output could go on")
        if self._matcher.num_tokens < self._min_tokens:
            going_on = mask.copy()
            going_on[self._stop_token_ids] = False
            mask = going_on if going_on.any() else mask
        return torch.where(torch.from_numpy(mask), logits, -torch.inf)

    def _take(self, token_ids: Sequence[int]) -> None:
        try:
            with self._timed():
                self._matcher.take(token_ids)
        except ValueError as error:
            raise _failed(error) from error

    def _is_possible(self, token_ids: Sequence[int]) -> bool:
        with self._timed():
            return self._matcher.num_possible(token_ids) == len(token_ids)

    @property
    def _is_too_slow(self) -> bool:
        return self._spent_s > _MAX_S + _MAX_S_PER_TOKEN * self._matcher.num_tokens

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        started_s = time.thread_time()
        try:
            yield
        finally:
            self._spent_s += time.thread_time() - started_s


class Structures:
    """Makes them. Threads may share it."""

    def __init__(self, grammars: GrammarCompiler | None) -> None:
        """Without ``grammars`` there are none."""
        self._grammars = grammars

    def of(self, sampling: SamplingParams) -> OutputStructure | None:
        """At an output's beginning. Raises ``InvalidRequestError``.

        What takes long is found as long as one is held: it is best asked for first where nobody waits for it.
        """
        if sampling.structured_output is None:
            return None
        if self._grammars is None:
            raise _failed("is not supported by this service")
        try:
            return OutputStructure(self._grammars.matcher(sampling.structured_output), sampling)
        except ValueError as error:
            raise _failed(error) from error


def _failed(problem: object) -> InvalidRequestError:
    return InvalidRequestError.of(STRUCTURED_OUTPUT, str(problem))
