"""Passes of the verifier: a plan's entries as rows, what is remembered of a pass under way, and the pass that may follow at once.

Used by the engine, which owns sessions, slots and the order of passes. A pass follows *at once* where the device itself takes over the
tokens that the one before it chooses: the host has it ready, and reads those choices while it runs.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from llm_service.acceptance import Answers, choices_wanted
from llm_service.scheduler import StepEntry
from llm_service.session import PendingWork
from specgrove.kernels.rows import HAS_LOGITS, PassRows
from specgrove.kernels.sampling import RowChoice
from specgrove.loop.request import LogProbs
from specgrove.program.backend import PassOutput
from specgrove.runtime.pass_builder import PassBuilder, TreeRows


@dataclass(frozen=True, slots=True)
class PassPart:
    """An item's part in a pass, its slots assigned: those of the chunk are its session's, those of the tree the pass's."""

    pending: PendingWork
    start: int
    """Slots that the session had before: where to cut it back to, should the pass fail."""
    tree_slots: list[int]
    """Empty where its tree is not in this pass."""

    @classmethod
    def of(cls, entry: StepEntry, slots: list[int]) -> PassPart:
        """The planned entry with a slot for each of its rows."""
        session = entry.pending.session
        start = len(session.slots)
        session.slots.extend(slots[: entry.chunk_len])
        return cls(entry.pending, start, slots[entry.chunk_len :])


@dataclass(frozen=True, slots=True)
class TreeInFlight:
    """A tree in a pass under way."""

    pending: PendingWork
    slots: list[int]
    asked: range
    """Which of the pass's asked rows are those of the tree's nodes."""
    has_choices: bool


@dataclass(frozen=True, slots=True)
class KnownInFlight:
    """Tokens of a prompt in a pass under way whose log-probabilities it tells: ``num_tokens`` from place ``start`` on."""

    pending: PendingWork
    start: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass under way."""

    parts: tuple[PassPart, ...]
    known: tuple[KnownInFlight, ...]
    trees: tuple[TreeInFlight, ...]
    started_s: float
    num_rows: int

    def surely_goes_on(self, pending: Collection[PendingWork]) -> bool:
        """Whether each of its items, and no other of ``pending``, takes one more step unless it stops; one that needs choices only.

        Not where log-probabilities of prompts are looked at first: they are told before anything follows.
        """
        own = {id(tree.pending) for tree in self.trees}
        return (
            not self.known
            and own == {id(work) for work in pending}
            and all(
                tree.has_choices and tree.pending.tree.num_nodes == 1 and tree.pending.num_steps_left > 1
                for tree in self.trees
            )
        )


def pass_of(parts: tuple[PassPart, ...], *, choices_are_cheap: bool) -> tuple[Pass, PassRows]:
    """The rows of an item's part each: the committed tokens that just got slots, and its tree below them."""
    started_s = time.perf_counter()
    builder = PassBuilder()
    known_in_flight, trees = [], []
    for part in parts:
        pending, session = part.pending, part.pending.session
        chunk = session.token_ids[part.start : len(session.slots)]
        known = session.known_after(part.start, len(session.slots))
        if known:
            known_in_flight.append(KnownInFlight(pending, part.start + 1 + min(known), len(known)))
        if not part.tree_slots:
            builder.add(session.slots, chunk, known=known)
            continue
        tree_rows = TreeRows(pending.tree.token_ids, pending.tree.parents, part.tree_slots)
        choices = choices_wanted(session, pending.tree, are_cheap=choices_are_cheap)
        asked = builder.add(session.slots, chunk, tree_rows, choices=choices, known=known)
        pending.is_in_flight = True
        trees.append(TreeInFlight(pending, part.tree_slots, asked, choices is not None))
    rows = builder.build()
    return Pass(parts, tuple(known_in_flight), tuple(trees), started_s, rows.num_rows), rows


def next_pass(before: Pass, parts: tuple[PassPart, ...]) -> tuple[Pass, PassRows]:
    """The next step of a pass's items, a slot each: their roots are its choices (see ``Runner.max_num_ahead``)."""
    started_s = time.perf_counter()
    builder = PassBuilder()
    trees = []
    for tree, part in zip(before.trees, parts, strict=True):
        session = tree.pending.session
        context = session.slots + array("i", tree.slots)
        choice = RowChoice(session.choice_params, len(session.token_ids) + 1)
        tree_rows = TreeRows([-1 - tree.asked.start], [-1], part.tree_slots)
        asked = builder.add(context, (), tree_rows, choices=[choice])
        trees.append(TreeInFlight(tree.pending, part.tree_slots, asked, has_choices=True))
    rows = builder.build()
    return Pass(parts, (), tuple(trees), started_s, rows.num_rows), rows


def log_probs_by_prompt(
    known: Sequence[KnownInFlight], output: PassOutput
) -> Iterator[tuple[KnownInFlight, Sequence[LogProbs | None]]]:
    """Those of each prompt, in order."""
    start = 0
    for tokens in known:
        yield tokens, output.log_probs[start : start + tokens.num_tokens]
        start += tokens.num_tokens


def answers_by_tree(trees: Sequence[TreeInFlight], output: PassOutput) -> Iterator[tuple[TreeInFlight, Answers]]:
    """Choices and logits are of trees alone; those of one tree are all choices or all logits."""
    first_logit = 0
    for tree in trees:
        choices = output.choices[tree.asked.start : tree.asked.stop]
        if choices and choices[0] != HAS_LOGITS:
            yield tree, choices
        else:
            yield tree, output.logits[first_logit : first_logit + len(tree.asked)]
            first_logit += len(tree.asked)
