"""Which nodes of the trees in a pass are worth their rows: one choice over all sessions that share it. Asked by ``PassPlanner``.

A row lengthens the pass for everybody in it, by what passes of so many rows take here: learnt from real ones (``RowTimes``). So nodes
are taken best first, by the probability that their whole path is accepted, whosesoever they are, as far as the pass's expected tokens
per millisecond rise. Invariant: a node that is kept has its ancestors; outputs don't depend on any of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from specgrove.loop.row_times import RowTimes
from specgrove.loop.token_tree import TokenTree

# Rows whose time is uncertain are hoped to take so many standard deviations less: so they are looked at now and then. With half of it, rows
# that were measured as half as dear again, while other services came up, were not looked at for a hundred passes.
_OPTIMISM = 1.0
# What the latest pass counts in the mean of the time between passes; of one gap so many passes' time at most.
_GAP_WEIGHT = 0.1
_MAX_GAP_SHARE = 1.0


class PayingRows:
    """One per engine."""

    def __init__(self) -> None:
        self.row_times = RowTimes()
        self._ended_s: float | None = None
        self._gap_ms = 0.0
        self._is_gap_seen = True

    def observe(self, num_rows: int, pass_ms: float, now_s: float) -> None:
        """A pass has ended."""
        self._ended_s, self._is_gap_seen = now_s, False
        self.row_times.observe(num_rows, pass_ms)

    def select(
        self, trees: Sequence[TokenTree], num_other_rows: int, now_s: float, *, is_busy: bool
    ) -> list[list[int]]:
        """Of each tree of the pass that begins now the nodes to verify, rising; roots are always among them.

        ``num_other_rows`` are those of prompts and of other trees in it. ``is_busy``: another pass is in flight, so that nothing waits for
        this one.
        """
        if not self.row_times.is_known:
            return [list(range(tree.num_nodes)) for tree in trees]
        num_sessions = len(trees)
        order = sorted(
            (-math.exp(log_prob), index, node)
            for index, tree in enumerate(trees)
            for node, log_prob in enumerate(tree.path_log_probs())
            if node > 0
        )
        first = num_sessions + num_other_rows
        curve = self.row_times.curve(first, first + len(order), _OPTIMISM)
        # Others' rows are computed whatever comes of these: the rate to beat is that without them.
        alone_ms = self.row_times.ms(num_sessions, _OPTIMISM) if num_other_rows else curve[0]
        other_ms = self._time_between(alone_ms, now_s, is_busy=is_busy) + alone_ms - curve[0]
        tokens = itertools.accumulate((-entry[0] for entry in order), initial=float(num_sessions))
        rates = [num_tokens / (pass_ms + other_ms) for num_tokens, pass_ms in zip(tokens, curve, strict=True)]
        num_kept = max(range(len(rates)), key=lambda num_nodes: (rates[num_nodes], -num_nodes))
        kept: list[list[int]] = [[0] for _ in trees]
        for _, index, node in order[:num_kept]:
            kept[index].append(node)
        return [sorted(nodes) for nodes in kept]

    def _time_between(self, pass_ms: float, now_s: float, *, is_busy: bool) -> float:
        """Milliseconds from a pass's end to the next one's begin, in which trees are drafted: a step takes them, too.

        The mean over passes. A time in which nobody wanted anything counts as well, up to a pass's: one of many.
        """
        if (
            self._is_gap_seen or self._ended_s is None
        ):  # a pass may be planned several times, till there are slots for it
            return self._gap_ms
        self._is_gap_seen = True
        gap_ms = 0.0 if is_busy else min((now_s - self._ended_s) * 1e3, _MAX_GAP_SHARE * pass_ms)
        self._gap_ms += _GAP_WEIGHT * (gap_ms - self._gap_ms)
        return self._gap_ms
