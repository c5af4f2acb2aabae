"""A program's passes by captured graphs, in memory that stays where it is. Driven by ``GraphRunner``.

A pass is filled up to the next of a few numbers of rows, its *bucket*, and so are the rows that are asked for something. For each there is
a graph of the program up to ``TakeRows``, for each number of asked rows one of the rest, and where both are the same, as in passes of trees
alone, one of all. Sums over ranks are in the graphs; all ranks capture and replay alike. Nothing is allocated. Passes that are larger than
every bucket run without a graph, in room of their own: the same kernels, the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from specgrove.kernels.cuda.choices import take_choices
from specgrove.kernels.device_memory import PassLimits
from specgrove.kernels.rows import PassRows
from specgrove.program.backend import KvCaches, check_input
from specgrove.program.cuda import CudaProgram
from specgrove.program.cuda_launches import CudaPass
from specgrove.program.graphs import Graphs
from specgrove.program.pass_numbers import PassBuffers, PassNumbers
from specgrove.program.pass_room import PassRoom

_SMALL_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64)
_MAX_BUCKET_STEPS = ((256, 64), (1 << 30, 128))  # beyond the small ones: up to so many rows, one every so many

Progress = Callable[[int, int], None]
"""Told how many graphs are captured, and how many there will be."""


def buckets(largest: int) -> tuple[int, ...]:
    """Numbers of rows, each at most about a half more than what it is used for, and up to ``largest``."""
    found = [size for size in _SMALL_BUCKETS if size < largest]
    for end, step in _MAX_BUCKET_STEPS:
        found.extend(range(found[-1] + step if found else step, min(end, largest - 1) + 1, step))
    return (*found, largest)


def bucket_for(size: int, sizes: Sequence[int]) -> int:
    """The smallest that ``size`` fits into."""
    return next(bucket for bucket in sizes if bucket >= size)


@dataclass(frozen=True, slots=True)
class BegunPass:
    """What a pass leaves on the device; by graphs it stays until the next one begins."""

    numbers: PassNumbers
    logits: torch.Tensor
    """float32 ``[num_asked, vocab_size]``; no columns where the program has no head."""
    kept: tuple[torch.Tensor, ...]
    """float32, of every ``KeepHidden``, by place: ``[num_rows, width]``, or behind ``TakeRows`` of the asked rows."""
    is_apart: bool = False
    """It has room of its own, which no other pass uses."""


class CapturedProgram:
    """Of one program, over one set of caches. Whoever calls it is on the graphs' stream, in inference mode."""

    def __init__(
        self,
        program: CudaProgram,
        limits: PassLimits,
        caches: KvCaches,
        graphs: Graphs,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Captures all graphs. Raises ``ValueError`` for a program that can't be captured."""
        if not program.can_be_captured:
            raise ValueError(
                "graphs can capture neither weights that are brought from the host nor sums of ranks that the host adds"
            )
        self.program, self.limits = program, limits
        self.chosen = torch.zeros(limits.max_num_asked, dtype=torch.int64, device=program.device)
        """int64 ``[max_num_asked]``: what the pass before chose, for token ids below 0; see ``take_choices``."""
        self._caches = caches
        self._numbers = PassBuffers(limits, program.program.heads, program.device)
        sizes = (limits.max_num_rows, limits.max_num_asked)
        self._room = PassRoom(program.program, *sizes, program.device)
        self._input = self._room_of_input()
        self._row_buckets, self._asked_buckets = buckets(sizes[0]), buckets(sizes[1])
        self._replays: dict[tuple[int, int], Callable[[], None]] = {}
        self._capture_all(graphs, progress)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        taken_in = 0 if self._input is None else self._input.nbytes
        return self._numbers.nbytes + self._room.nbytes + self.chosen.nbytes + taken_in

    def fits(self, rows: PassRows) -> bool:
        """Whether there is a graph for a pass."""
        limits = self.limits
        return rows.num_rows <= limits.max_num_rows and len(rows.asked_rows) <= limits.max_num_asked

    def begin(self, rows: PassRows, hidden: torch.Tensor | None = None) -> BegunPass:
        """Begins a pass; ``hidden`` as for ``Executable.run``. Raises ``ValueError`` for rows or an input that don't fit."""
        rows.check()
        check_input(self.program.program, rows.num_rows, hidden)
        self.program.row_limits.check(rows, self._caches, self.limits.max_num_asked)
        return self._begin_by_graphs(rows, hidden) if self.fits(rows) else self._begin_alone(self.program, rows, hidden)

    def begin_other(self, program: CudaProgram, rows: PassRows) -> BegunPass:
        """Begins a pass of another program over the same caches, without a graph, as those that are beyond the limits."""
        rows.check()
        program.row_limits.check(rows, self._caches, self.limits.max_num_asked)
        return self._begin_alone(program, rows, None)

    def _begin_by_graphs(self, rows: PassRows, hidden: torch.Tensor | None) -> BegunPass:
        num_rows, num_asked = rows.num_rows, len(rows.asked_rows)
        row_bucket = bucket_for(num_rows, self._row_buckets)
        asked_bucket = bucket_for(num_asked, self._asked_buckets) if num_asked and self.program.takes_rows else 0
        self._numbers.load(rows, row_bucket, asked_bucket)
        if self._input is not None and hidden is not None:
            self._input[:num_rows].copy_(hidden)
        if (row_bucket, asked_bucket) in self._replays:  # also where nothing is asked
            self._replays[row_bucket, asked_bucket]()
        else:
            self._replays[row_bucket, 0]()
            self._replays[0, asked_bucket]()
        kept = tuple(
            states[: num_asked if kept.is_of_asked else num_rows]
            for states, kept in zip(self._room.kept, self.program.program.kept, strict=True)
        )
        return BegunPass(self._numbers, self._room.logits[:num_asked], kept)

    def _begin_alone(self, program: CudaProgram, rows: PassRows, hidden: torch.Tensor | None) -> BegunPass:
        numbers = PassNumbers.of(rows, program.program.heads, program.device)
        take_choices(numbers.token_ids, self.chosen)
        room = program.run_alone(numbers, self._caches, rows.num_rows, len(rows.asked_rows), hidden)
        return BegunPass(numbers, room.logits, room.kept, is_apart=True)

    def _capture_all(self, graphs: Graphs, progress: Progress) -> None:
        """The largest first: the others then find their memory in its."""
        sizes = [(num_rows, 0) for num_rows in reversed(self._row_buckets)]
        if self.program.takes_rows:
            sizes += [(0, num_asked) for num_asked in reversed(self._asked_buckets)]
            sizes += [(size, size) for size in reversed(self._asked_buckets) if size in self._row_buckets]
        for num_rows, num_asked in sizes:
            self._replays[num_rows, num_asked] = graphs.capture(partial(self._run, num_rows, num_asked))
            progress(len(self._replays), len(sizes))

    def _run(self, num_rows: int, num_asked: int) -> None:
        hidden = None if self._input is None else self._input[:num_rows]
        run = CudaPass(self._numbers, self._room, self._caches, num_rows, hidden)
        if num_rows:
            take_choices(self._numbers.token_ids[:num_rows], self.chosen)
            self.program.run_rows(run)
        self.program.run_asked(replace(run, num_rows=num_asked))

    def _room_of_input(self) -> torch.Tensor | None:
        width = self.program.program.input_width
        return None if width is None else torch.zeros(self.limits.max_num_rows, width, device=self.program.device)
