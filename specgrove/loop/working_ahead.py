"""Drafting ahead, as one request's loop sees it: how long drafters may go on, and whether what they drafted ahead is taken as it is.

Used by ``specgrove.loop.drafting``. A tree that was drafted while the one before was verified costs no time now, but may be smaller than
one that is waited for. So both are weighed, by the times of this request's own steps: what a pass of the verifier takes, what waiting for a
draft takes, and how many tokens drafts that were waited for promised. Invariant: all this decides when a tree is verified, never a token.
"""

from __future__ import annotations

import math

from specgrove.loop.token_tree import TokenTree

# What one more observation counts, once there are some.
_WEIGHT = 0.1
# Drafters may go on for this multiple of what the verifier has taken: it may take longer. The next work ends it anyway.
_TIMES_VERIFIED = 2.0
_FIRST_AHEAD_MS = 100.0
_MIN_AHEAD_MS, _MAX_AHEAD_MS = 1.0, 2000.0


class _Mean:
    """Of the first observations, then of the latest."""

    def __init__(self) -> None:
        self.value = 0.0
        self._num_seen = 0

    @property
    def is_known(self) -> bool:
        return self._num_seen > 0

    def add(self, value: float) -> None:
        self._num_seen += 1
        self.value += max(1 / self._num_seen, _WEIGHT) * (value - self.value)


class WorkingAhead:
    """Of one request."""

    def __init__(self) -> None:
        self._verify_ms = _Mean()
        self._wait_ms = _Mean()
        self._promised = _Mean()

    @property
    def ahead_ms(self) -> int:
        """For how long drafters may go on after their answer."""
        expected_ms = _TIMES_VERIFIED * self._verify_ms.value if self._verify_ms.is_known else _FIRST_AHEAD_MS
        return math.ceil(min(max(expected_ms, _MIN_AHEAD_MS), _MAX_AHEAD_MS))

    def note_verified(self, ms: float) -> None:
        """The verifier, and the ways to it and back, took this."""
        self._verify_ms.add(ms)

    def note_waited(self, ms: float, tree: TokenTree) -> None:
        """So long a draft was waited for, and this came of it."""
        self._wait_ms.add(ms)
        self._promised.add(_expected_tokens(tree))

    def is_worth(self, tree: TokenTree, max_num_nodes: int) -> bool:
        """Whether a tree that is there brings at least as many tokens a millisecond as one that is waited for.

        One that has as many nodes as are wanted does: the drafter would hardly find others.
        """
        if tree.num_nodes <= 1:
            return False
        if tree.num_nodes > max_num_nodes or not self._wait_ms.is_known:
            return True
        rate = _expected_tokens(tree) * (self._verify_ms.value + self._wait_ms.value)
        return rate >= self._promised.value * self._verify_ms.value


def _expected_tokens(tree: TokenTree) -> float:
    """Of a step that verifies the tree: the verifier's own, and each node as often as its path is accepted."""
    return sum(map(math.exp, tree.path_log_probs()))  # the root's is 1
