"""Passes of the verifier: the parts of the items that take part as rows, and what a finished pass says of each.

Used by ``PassesInFlight``, which has their order, and by the engine, which owns sessions and slots. A *pass ahead* begins before the
choices of the one before it are known here: the device takes them over itself, so that it never waits for the host.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from llm_service.acceptance import choices_wanted
from llm_service.for_drafters import positions_to_tell, rows_on_path, union_of
from llm_service.node_answers import NodeAnswers, NodeChoices, NodeLogits
from llm_service.scheduler import PlannedPart
from llm_service.session import PendingWork
from specgrove.kernels.rows import PassRows, chosen_before
from specgrove.kernels.sampling import RowChoice
from specgrove.loop.verifier_knowledge import HiddenStates
from specgrove.loop.works import LogProbs
from specgrove.program.backend import PassOutput
from specgrove.runtime.hidden_values import PassValues
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

_NO_ROWS = range(0)


@dataclass(frozen=True, slots=True)
class PassPart:
    """An item's part in a pass. The slots of its chunk are its session's, those of its tree the pass's; rows are known once it is built."""

    pending: PendingWork
    start: int
    """Slots that the session had before: where to cut it back to, should the pass fail."""
    tree_slots: Sequence[int]
    """Empty where its tree is not in this pass."""
    tree_rows: range = _NO_ROWS
    """Which of the pass's asked rows are those of the tree's nodes."""
    has_choices: bool = False
    """Whether these are asked for choices, not for logits."""
    known_places: range = _NO_ROWS
    """Places of the prompt's tokens whose log-probabilities the pass tells."""
    hidden_positions: range = _NO_ROWS
    """Those of its chunk's rows whose hidden states it tells."""
    first_row: int = 0
    """Of its rows in the pass, the chunk's before those of the tree."""
    first_node_row: int = 0
    chunk_end: int = 0
    """Slots that the session has after its chunk."""

    @property
    def tells_hidden_states(self) -> bool:
        """Whether the pass must hand out hidden states for it."""
        return bool(self.hidden_positions or (self.tree_slots and self.pending.hidden_layers))

    @classmethod
    def of(cls, planned: PlannedPart, slots: list[int]) -> PassPart:
        """The planned part with a slot for each of its rows."""
        session = planned.pending.session
        start = len(session.slots)
        session.slots.extend(slots[: planned.chunk_len])
        return cls(planned.pending, start, slots[planned.chunk_len :], chunk_end=len(session.slots))


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass in flight."""

    parts: tuple[PassPart, ...]
    started_s: float
    num_rows: int
    hidden_layers: tuple[int, ...] = ()
    """Those whose hidden states it hands out."""

    def may_be_followed(self, pending: Collection[PendingWork], max_num_rows: int) -> bool:
        """Whether a pass ahead may follow: all of ``pending``, and nothing else, is in this one with a tree of one node that is asked
        for a choice, and takes one more step unless it stops. Its rows are ``max_num_rows`` at most.

        Not where log-probabilities of prompts are looked at first: they are told before anything follows.
        """
        return (
            0 < len(self.parts) == len(pending) <= max_num_rows
            and all(
                part.has_choices
                and len(part.tree_rows) == 1
                and not part.known_places
                and part.pending.num_steps_left > 1
                for part in self.parts
            )
            and {part.pending for part in self.parts} == set(pending)
        )


def pass_of(
    parts: tuple[PassPart, ...], hidden_layers: tuple[int, ...] = (), *, choices_are_cheap: bool
) -> tuple[Pass, PassRows]:
    """The rows of each part: the committed tokens that just got slots, and the item's tree below them.

    Where a part tells hidden states the pass hands them out at all ``hidden_layers``, and at the others that are asked for.
    """
    started_s = time.perf_counter()
    builder = PassBuilder()
    built = tuple(_added(builder, part, choices_are_cheap=choices_are_cheap) for part in parts)
    return _built(builder, built, started_s, hidden_layers)


def _built(
    builder: PassBuilder, parts: tuple[PassPart, ...], started_s: float, hidden_layers: tuple[int, ...]
) -> tuple[Pass, PassRows]:
    rows = builder.build()
    if any(part.tells_hidden_states for part in parts):
        rows.hidden_layers = union_of(hidden_layers, (part.pending for part in parts))
    return Pass(parts, started_s, rows.num_rows, rows.hidden_layers), rows


def _added(builder: PassBuilder, part: PassPart, *, choices_are_cheap: bool) -> PassPart:
    pending, session = part.pending, part.pending.session
    chunk = session.token_ids[part.start : len(session.slots)]
    known = session.known_after(part.start, len(session.slots))
    first_place = part.start + 1 + min(known, default=0)
    places = range(first_place, first_place + len(known))
    hidden_positions = positions_to_tell(pending, part.start, len(session.slots))
    first_row = builder.num_rows
    if not part.tree_slots:
        builder.add(session.slots, chunk, known=known)
        return replace(part, known_places=places, hidden_positions=hidden_positions, first_row=first_row)
    tree = TreeRows(pending.tree.token_ids, pending.tree.parents, part.tree_slots)
    choices = choices_wanted(session, pending.tree, are_cheap=choices_are_cheap)
    asked = builder.add(session.slots, chunk, tree, choices=choices, known=known)
    pending.is_in_flight = True
    return PassPart(
        pending, part.start, part.tree_slots, asked, choices is not None, places,
        hidden_positions, first_row, first_row + len(chunk), part.chunk_end,
    )  # fmt: skip


def pass_ahead(before: Pass, parts: tuple[PassPart, ...], hidden_layers: tuple[int, ...]) -> tuple[Pass, PassRows]:
    """The next step of each item of a pass, with a slot each: their roots are its choices (see ``Runner.max_num_ahead``)."""
    started_s = time.perf_counter()
    builder = PassBuilder()
    built = []
    for earlier, part in zip(before.parts, parts, strict=True):
        session = part.pending.session
        context = session.slots + array("i", earlier.tree_slots)
        choice = RowChoice(session.choice_params, len(session.token_ids) + 1)
        root = TreeRows([chosen_before(earlier.tree_rows.start)], [-1], part.tree_slots)
        first_row = builder.num_rows
        asked = builder.add(context, (), root, choices=[choice])
        built.append(replace(part, tree_rows=asked, has_choices=True, first_row=first_row, first_node_row=first_row))
    return _built(builder, tuple(built), started_s, hidden_layers)


@dataclass(frozen=True, slots=True)
class FinishedPass:
    """What a pass gave. Where passes overlap ``pass_s`` is what it added to the one before."""

    parts: tuple[PassPart, ...]
    num_rows: int
    pass_s: float
    output: PassOutput
    hidden_layers: tuple[int, ...] = ()
    hidden_values: PassValues | None = None

    def log_probs(self) -> Iterator[tuple[PassPart, Sequence[LogProbs | None]]]:
        """Of the parts with tokens of prompts whose log-probabilities are wanted; None where the logits hold NaN."""
        start = 0
        for part in self.parts:
            if part.known_places:
                yield part, self.output.log_probs[start : start + len(part.known_places)]
                start += len(part.known_places)

    def hidden_states_of_chunk(self, part: PassPart) -> HiddenStates | None:
        """Of the chunk's rows that are to be told, if there are any."""
        positions = part.hidden_positions
        if not positions:
            return None
        first_row = part.first_row + positions.start - part.start
        return self._hidden_states(part, positions.start, range(first_row, first_row + len(positions)))

    def hidden_states_of_path(self, part: PassPart, accepted_nodes: Sequence[int]) -> HiddenStates | None:
        """Of the root and the accepted nodes of a part's tree, where its item wants them."""
        if not part.pending.hidden_layers:
            return None
        rows = rows_on_path(part.first_node_row, accepted_nodes)
        return self._hidden_states(part, len(part.pending.session.token_ids) - 1, rows)

    def _hidden_states(self, part: PassPart, first_position: int, rows: Sequence[int]) -> HiddenStates:
        layers = part.pending.hidden_layers
        assert self.hidden_values is not None, "the pass was begun so"
        places = [self.hidden_layers.index(layer) for layer in layers]
        return HiddenStates(first_position, len(rows), layers, self.hidden_values.of(rows, places))

    def answers(self) -> Iterator[tuple[PassPart, NodeAnswers]]:
        """Of the parts with trees: what follows each node. A runner may give logits where it was asked for choices."""
        first_logit = 0
        for part in self.parts:
            if not part.tree_slots:
                continue
            rows = part.tree_rows
            if (made := NodeChoices.if_made(self.output.choices[rows.start : rows.stop])) is not None:
                yield part, made
            else:
                yield part, NodeLogits(self.output.logits[first_logit : first_logit + len(rows)])
                first_logit += len(rows)
