"""Forward passes of the verifier: a plan's entries as rows, what is remembered of a pass under way, and the pass that may follow at once.

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
from specgrove.kernels.model_step import HAS_LOGITS
from specgrove.kernels.sampling import RowChoice
from specgrove.models.forward_batch import ForwardBatch, ForwardOutput
from specgrove.runtime.forward_batch import BatchBuilder, TreeRows


@dataclass(frozen=True, slots=True)
class TreeInFlight:
    """A tree in a pass under way."""

    pending: PendingWork
    slots: list[int]
    asked: range
    """Of the pass's asked rows those of the tree's nodes."""
    has_choices: bool


@dataclass(frozen=True, slots=True)
class Pass:
    """A forward pass under way."""

    trees: tuple[TreeInFlight, ...]
    started_s: float
    num_rows: int

    def surely_goes_on(self, pending: Collection[PendingWork]) -> bool:
        """Whether each of its items, and no other of ``pending``, takes one more step unless it stops; one that needs choices only."""
        own = {id(tree.pending) for tree in self.trees}
        return own == {id(work) for work in pending} and all(
            tree.has_choices and tree.pending.tree.num_nodes == 1 and tree.pending.num_steps_left > 1
            for tree in self.trees
        )


def pass_of(entries: Sequence[tuple[StepEntry, list[int]]], *, choices_are_cheap: bool) -> tuple[Pass, ForwardBatch]:
    """The rows of planned entries, each with its slots. Chunks' slots become their sessions' now."""
    started_s = time.perf_counter()
    builder = BatchBuilder()
    trees = []
    for entry, slots in entries:
        pending, session = entry.pending, entry.pending.session
        start = len(session.slots)
        session.slots.extend(slots[: entry.chunk_len])
        chunk = session.token_ids[start : start + entry.chunk_len]
        if not entry.has_tree:
            builder.add(session.slots, chunk)
            continue
        tree_slots = slots[entry.chunk_len :]
        rows = TreeRows(pending.tree.token_ids, pending.tree.parents, tree_slots)
        choices = choices_wanted(session, pending.tree, are_cheap=choices_are_cheap)
        asked = builder.add(session.slots, chunk, rows, choices=choices)
        pending.is_in_flight = True
        trees.append(TreeInFlight(pending, tree_slots, asked, choices is not None))
    batch = builder.build()
    return Pass(tuple(trees), started_s, batch.num_rows), batch


def next_pass(before: Pass, slots: Sequence[int]) -> tuple[Pass, ForwardBatch]:
    """The next step of a pass's items, with a slot for each: their roots are its choices (see ``Runner.max_num_ahead``)."""
    started_s = time.perf_counter()
    builder = BatchBuilder()
    trees = []
    for tree, slot in zip(before.trees, slots, strict=True):
        session = tree.pending.session
        context = session.slots + array("i", tree.slots)
        choice = RowChoice(session.choice_params, len(session.token_ids) + 1)
        asked = builder.add(context, (), TreeRows([-1 - tree.asked.start], [-1], [slot]), choices=[choice])
        trees.append(TreeInFlight(tree.pending, [slot], asked, has_choices=True))
    batch = builder.build()
    return Pass(tuple(trees), started_s, batch.num_rows), batch


def answers_by_tree(trees: Sequence[TreeInFlight], output: ForwardOutput) -> Iterator[tuple[TreeInFlight, Answers]]:
    """All asked rows are of trees, and those of one tree are all choices or all logits."""
    first_logit = 0
    for tree in trees:
        choices = output.choices[tree.asked.start : tree.asked.stop]
        if choices and choices[0] != HAS_LOGITS:
            yield tree, choices
        else:
            yield tree, output.logits[first_logit : first_logit + len(tree.asked)]
            first_logit += len(tree.asked)
