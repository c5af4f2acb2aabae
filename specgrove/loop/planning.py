"""What the next step is to be: the policy's choice, as far as it can be had now. Used by the loop in ``specgrove.loop.speculation``.

Invariant: no drafter delays the first token, and none is asked for a tree while it has much to read.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from specgrove.loop.drafting import Drafting
from specgrove.loop.output import Step
from specgrove.loop.probing import Probing
from specgrove.loop.verifying import Verifying
from specgrove.loop.works import MAX_NUM_STEPS_AHEAD, TreeShape

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


class Planning:
    """One per request: a tree, or steps ahead without one, while drafters read or probe in the background."""

    def __init__(
        self, policy: TreePolicy | None, drafting: Drafting, probing: Probing, verifying: Verifying, prompt_len: int
    ) -> None:
        """Without a policy nothing is drafted."""
        self._policy = policy
        self._drafting = drafting
        self._probing = probing
        self._verifying = verifying
        self._prompt_len = prompt_len
        self._doubt_len: int | None = None
        """Where the verifier goes on by itself for want of knowledge: the committed length at which the policy is asked."""

    def next_shape(self, committed: list[int], num_left: int) -> TreeShape:
        """What is to be drafted; nothing where the verifier makes the step already. It is told to stop where a tree is wanted after all,
        or hidden states are not.
        """
        if self._verifying.is_ahead:
            if self._wants_something_else(committed):
                self._verifying.finish_early()
            return _WITHOUT_DRAFTERS
        shape, self._doubt_len = self._wanted(committed), None
        if shape.max_num_nodes > 0:
            if not self._drafting.is_behind(committed):
                # A tree of depth d commits up to d + 1 tokens: deeper nodes than that can't be used any more.
                is_fitting = shape.max_depth < num_left and shape.num_steps == 1
                return (
                    shape if is_fitting else replace(shape, max_depth=min(shape.max_depth, num_left - 1), num_steps=1)
                )
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

    def _wants_something_else(self, committed: list[int]) -> bool:
        """While the verifier goes on by itself: true once, when what is under way is to end. Where a tree is to follow drafters read."""
        if self._doubt_len is None or len(committed) < self._doubt_len:
            return False
        shape = self._wanted(committed)
        if shape.max_num_nodes == 0:
            self._doubt_len = len(committed) + shape.num_steps
            return self._verifying.tells_hidden_states and not shape.wants_hidden_states
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
