"""Runs a program on the CPU: a native interpreter over its ops, with no Python between them.

Between ops that need somebody else (``SumRanks``, ``LoadUnit``) a segment is one native call. The native program holds addresses in the
program's weights, which live as long as this object does. Every op works row by row: a row's bits don't depend on the rows beside it.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from specgrove.kernels import _native
from specgrove.kernels.checks import check, native_dtype
from specgrove.kernels.rows import PassRows
from specgrove.program.backend import Candidates, KvCaches, PassOutput, check_input
from specgrove.program.cpu_ops import native_program
from specgrove.program.level_draft import DraftedLevels, FoundRoot, KnownRoot, LevelDraft, UnreadRows
from specgrove.program.op import Buffer
from specgrove.program.ops import LoadUnit, SumRanks
from specgrove.program.output_ops import Choose
from specgrove.program.program import Program
from specgrove.program.tensor_group import OneRank, TensorGroup

_ONE_RANK = OneRank()
_MAX_INT32 = (1 << 31) - 1
_BFLOAT16_BYTES = 2


@dataclass(frozen=True, slots=True)
class _Segment:
    """Native ops from ``first`` on, before ``end``."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class _Sum:
    """``SumRanks`` of a buffer that holds rows of so many numbers."""

    x: Buffer
    width: int


class CpuProgram:
    """See ``Executable``. One call at a time runs; others wait."""

    def __init__(
        self,
        program: Program,
        group: TensorGroup = _ONE_RANK,
        will_run: Callable[[int], None] = lambda unit: None,
    ) -> None:
        """``will_run`` is told which unit of the weights is used next. Raises ``ValueError`` for ops that don't fit together."""
        self._program, self._group, self._will_run = program, group, will_run
        self._native = native_program(program, group.rank)
        self._steps = tuple(_steps(program))
        self._kept = program.kept
        choose = next((op for op in program.ops if isinstance(op, Choose)), None)
        self._widths = () if choose is None else choose.widths
        self._own_width = 0 if choose is None else choose.vocab.out_features
        self._shortlist = program.shortlist
        self._no_logits = torch.empty((0, sum(self._widths)))
        self._caches: tuple[KvCaches, _native.KvCaches] | None = None  # those of the last pass
        self._lock = threading.Lock()

    def run(self, rows: PassRows, caches: KvCaches, hidden: torch.Tensor | None = None) -> PassOutput:
        """See ``Executable``. Among several ranks all asked rows have logits."""
        rows.check()
        check_input(self._program, rows.num_rows, hidden)
        asked = [None if choice is None else (choice.params.native, choice.position) for choice in rows.choices]
        if len(self._widths) > 1:
            asked = [None] * len(asked)
        num_logits = asked.count(None) if self._widths else 0
        logits = torch.empty((num_logits, self._own_width)) if num_logits else self._no_logits
        kept = [torch.empty((len(asked) if each.is_of_asked else rows.num_rows, each.width)) for each in self._kept]
        shortlisted = self._room_of_candidates(len(asked))
        plan = rows.plan()  # read until the pass ends
        with self._lock:
            self._native.begin(
                num_rows=rows.num_rows,
                token_ids=_address(rows.token_ids),
                positions=_address(rows.positions),
                slots=_address(rows.slots),
                plan=plan,
                caches=self._native_caches(caches),
                hidden=0 if hidden is None else hidden.data_ptr(),
                kept=[part.data_ptr() for part in kept],
                shortlisted=[part.data_ptr() for part in shortlisted],
                asked_rows=_address(rows.asked_rows),
                choices=asked,
                logits=logits.data_ptr(),
                logits_width=self._own_width,
            )
            for step in self._steps:
                self._run_step(step)
            choices = self._native.choices() if self._widths and num_logits < len(asked) else ()
            if len(self._widths) > 1 and num_logits:
                logits = self._group.concatenated(logits, self._widths)
        op = self._shortlist
        candidates = None if op is None else Candidates.at(op, *shortlisted)
        return PassOutput(choices, logits, tuple(kept), candidates=candidates)

    def draft_levels(self, draft: LevelDraft, caches: KvCaches, reader: CpuProgram | None = None) -> DraftedLevels:
        """A draft's levels, pass after pass. For a program of one segment that takes states of the width that it hands out, and has a
        shortlist. ``reader`` reads unread rows: it is such a program too, but takes other states.
        """
        (kept,), shortlist = self._kept, self._shortlist
        assert shortlist is not None, "it chooses among them"
        assert len(self._steps) == 1, "native code runs it as a whole"
        if draft.max_num_nodes < 1 or draft.num_kept < 1 or draft.context_slots.typecode != "i":
            raise ValueError("a tree has a node at least, a node a proposal, and slots are int32")
        if not 0 <= draft.first_position <= _MAX_INT32 - len(draft.levels):
            raise ValueError(f"positions are int32, and begin with 0; got {draft.first_position}")
        root = draft.root
        states = torch.empty((1 + len(draft.slots), kept.width))
        row_bytes = kept.width * states.element_size()
        read = found = None
        other_lock: AbstractContextManager[object] = nullcontext()
        if isinstance(root, KnownRoot):
            check(root.states, "states", torch.float32, None, kept.width)
            if not 0 <= root.row < len(root.states):
                raise ValueError(f"there is no row {root.row} of {len(root.states)} states")
            root_address = root.states.data_ptr() + root.row * row_bytes
        else:
            assert reader is not None, "somebody must read them"
            root_address, other_lock = states.data_ptr(), reader._lock
            room = bytes(4 * shortlist.num_candidates)
            places, logits, log_sum_exp = array("i", room), array("f", room), array("f", [0.0])
            read = reader._native_rows(root, draft, (_address(places), _address(logits), _address(log_sum_exp)))
        with self._lock, other_lock:
            proposals, nodes = self._native.draft_levels(
                context_slots=_address(draft.context_slots),
                context_len=len(draft.context_slots),
                first_position=draft.first_position,
                read=read,
                root_state=root_address,
                state_size=kept.width,
                root_proposals=root.proposals if isinstance(root, KnownRoot) else (),
                levels=[(level.num_children, level.num_expanded, level.choice.native) for level in draft.levels],
                max_num_nodes=draft.max_num_nodes,
                min_level_prob=draft.min_level_prob,
                num_kept=draft.num_kept,
                noise_weight=draft.noise_weight,
                slots=draft.slots,
                num_candidates=shortlist.num_candidates,
                token_ids=0 if shortlist.token_ids is None else shortlist.token_ids.data_ptr(),
                vocab_size=draft.vocab_size,
                caches=self._native_caches(caches),
                states=states.data_ptr() + row_bytes,
            )
        if read is not None:
            found = FoundRoot(proposals, shortlist, places, logits, log_sum_exp)
        return DraftedLevels(nodes, states, found)

    def _native_rows(self, rows: UnreadRows, draft: LevelDraft, shortlisted: tuple[int, int, int]) -> _native.ReadRows:
        """Raises ``ValueError`` unless there are as many of all that a pass takes."""
        num_rows, width = len(rows.token_ids), self._program.input_width or 0
        if rows.token_ids.typecode != "q" or not 1 <= num_rows <= min(len(draft.context_slots), draft.first_position):
            raise ValueError(f"unread rows are int64, and the last of the context; got {num_rows}")
        if len(rows.hidden) != num_rows * width * _BFLOAT16_BYTES:
            raise ValueError(
                f"{num_rows} rows take {num_rows * width} numbers of bfloat16, got {len(rows.hidden)} bytes"
            )
        assert len(self._steps) == 1, "native code runs it as a whole"
        places, logits, log_sum_exp = shortlisted
        return _native.ReadRows(
            program=self._native,
            num_rows=num_rows,
            token_ids=_address(rows.token_ids),
            hidden=rows.hidden,
            choice=rows.choice.native,
            places=places,
            logits=logits,
            log_sum_exp=log_sum_exp,
        )

    def _room_of_candidates(self, num_asked: int) -> tuple[torch.Tensor, ...]:
        """Places, logits and log-sum-exp of asked rows, as ``Candidates.at`` takes them; nothing where the program has none."""
        if (op := self._shortlist) is None:
            return ()
        shape = (num_asked, op.num_candidates)
        return torch.empty(shape, dtype=torch.int32), torch.empty(shape), torch.empty(num_asked)

    def _run_step(self, step: _Segment | _Sum | LoadUnit) -> None:
        match step:
            case _Segment():
                self._native.run(step.first, step.end)
            case _Sum():
                self._sum_ranks(step)
            case LoadUnit():
                # Of a pass that has ended early, too: units are loaded in turn.
                self._will_run(step.unit)

    def _sum_ranks(self, op: _Sum) -> None:
        num_rows = self._native.num_rows
        if num_rows > 0:
            own = torch.frombuffer(self._native.buffer(op.x, op.width), dtype=torch.float32).view(num_rows, op.width)
            own.copy_(self._group.sum(own))

    def _native_caches(self, caches: KvCaches) -> _native.KvCaches:
        """The same object is checked once."""
        if self._caches is not None and self._caches[0] is caches:
            return self._caches[1]
        num_layers, heads = self._program.num_layers, self._program.heads
        if not len(caches.keys) == len(caches.values) == num_layers:
            raise ValueError(f"there must be a cache of keys and one of values for each of the {num_layers} layers")
        both = (*caches.keys, *caches.values)
        num_slots, dtype = (both[0].shape[0], both[0].dtype) if both else (0, torch.float32)
        for cache in both:
            check(cache, "keys and values", dtype, num_slots, heads.num_kv_heads, heads.head_dim)
        keys, values = ([cache.data_ptr() for cache in each] for each in (caches.keys, caches.values))
        native = _native.KvCaches(
            keys=keys,
            values=values,
            dtype=native_dtype(both[0], "keys") if both else _native.DType.float32,
            num_slots=num_slots,
        )
        self._caches = caches, native
        return native


def _steps(program: Program) -> Iterator[_Segment | _Sum | LoadUnit]:
    """Native ops are counted without those that end segments."""
    first = place = 0
    widths = program.widths()
    for segment in program.segments():
        match segment:
            case (SumRanks() as op,):
                yield _Sum(op.x, widths[place][op.x])
            case (LoadUnit() as op,):
                yield op
            case (op, *_) if op.ends_segment:
                raise ValueError(f"nobody on the CPU does what {type(op).__name__} needs between two segments")
            case _:
                yield _Segment(first, first + len(segment))
                first += len(segment)
        place += len(segment)


def _address(values: array[int] | array[float]) -> int:
    return values.buffer_info()[0]
