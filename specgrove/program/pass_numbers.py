"""The numbers of a pass on a GPU: ids, places and the attention plan that launches read, and what choices need.

``PassNumbers.of`` puts one pass there, however large. ``PassBuffers`` is memory that stays where it is, for passes within limits: captured
graphs read it at its addresses. What lies there is written on the host and copied in one piece. Rows that only fill a pass have no slot.
"""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from specgrove.kernels.cuda.attention import AttentionPlan, write_plan
from specgrove.kernels.cuda.backend import num_processors
from specgrove.kernels.device_memory import AttentionHeads, PassLimits, PlanCapacity
from specgrove.kernels.rows import PassRows

_NO_SLOT = -1
_FORMATS = {"i": torch.int32, "q": torch.int64, "f": torch.float32}


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the numbers. Formats are those of ``array``."""

    size: int
    format: str
    filler: int
    """What rows have that only fill a pass."""

    @property
    def num_words(self) -> int:
        """int32 numbers that it takes."""
        return self.size * _FORMATS[self.format].itemsize // 4


def _parts(num_rows: int, num_asked: int) -> dict[str, _Part]:
    """Those of 8 bytes first: they begin at multiples of 8. ``PassLimits.number_bytes`` counts them."""
    return {
        "seeds": _Part(num_asked, "q", 0),
        "choice_positions": _Part(num_asked, "q", 0),
        "temperatures": _Part(num_asked, "f", 0),
        "asked_rows": _Part(num_asked, "i", 0),
        "token_ids": _Part(num_rows, "i", 0),
        "positions": _Part(num_rows, "i", 0),
        "slots": _Part(num_rows, "i", _NO_SLOT),
    }


def _num_words(parts: Mapping[str, _Part]) -> int:
    return sum(part.num_words for part in parts.values())


class _HostNumbers:
    """The numbers on the host, written through plain views: a torch call takes ten times as long."""

    def __init__(self, parts: Mapping[str, _Part], num_plan_numbers: int, *, is_pinned: bool) -> None:
        self.words = torch.zeros(_num_words(parts) + num_plan_numbers, dtype=torch.int32, pin_memory=is_pinned)
        memory: Any = memoryview((ctypes.c_char * self.words.nbytes).from_address(self.words.data_ptr())).cast("B")
        self._views, self._fillers = {}, {}
        start = 0
        for name, part in parts.items():
            end = start + part.num_words
            self._views[name] = memory[4 * start : 4 * end].cast(part.format)
            self._fillers[name] = array(part.format, [part.filler]) * part.size
            start = end

    def load_rows(self, rows: PassRows, num_rows: int) -> None:
        """Filled up to ``num_rows``."""
        self._fill("token_ids", rows.token_ids, num_rows)
        self._fill("positions", rows.positions, num_rows)
        self._fill("slots", rows.slots, num_rows)

    def load_asked(self, rows: PassRows, num_asked: int) -> None:
        """The asked rows with the arguments of their choices, filled up to ``num_asked``."""
        choices = rows.choices
        self._fill("asked_rows", rows.asked_rows, num_asked)
        self._fill("temperatures", (0.0 if one is None else one.params.temperature for one in choices), num_asked)
        self._fill("seeds", (0 if one is None else _signed(one.params.seed) for one in choices), num_asked)
        self._fill("choice_positions", (0 if one is None else one.position for one in choices), num_asked)

    def _fill(self, name: str, values: Iterable[int] | Iterable[float], size: int) -> None:
        """The first ``size`` numbers of a part: ``values``, then fillers."""
        fillers = self._fillers[name]
        numbers = array(fillers.typecode, values)
        num_values = len(numbers)
        self._views[name][:num_values] = numbers
        self._views[name][num_values:size] = fillers[num_values:size]


def _signed(seed: int) -> int:
    """The same 64 bits as an int64."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed


class PassNumbers:
    """Tensors on the device: int32 ``token_ids``, ``positions`` and ``slots`` of rows, int32 ``asked_rows``, and the attention plan."""

    def __init__(self, words: torch.Tensor, parts: Mapping[str, _Part], plan: AttentionPlan) -> None:
        """``words``, int32, begin with the parts."""
        pieces = torch.split(words[: _num_words(parts)], [part.num_words for part in parts.values()])
        there = {
            name: piece.view(_FORMATS[part.format]) for (name, part), piece in zip(parts.items(), pieces, strict=True)
        }
        self.token_ids, self.positions, self.slots = there["token_ids"], there["positions"], there["slots"]
        self.asked_rows = there["asked_rows"]
        self._choices = (there["temperatures"], there["seeds"], there["choice_positions"])
        self.plan = plan

    @classmethod
    def of(cls, rows: PassRows, heads: AttentionHeads, device: torch.device) -> PassNumbers:
        """One pass, as large as it is. Raises ``ValueError`` for rows that don't fit together."""
        num_rows, num_asked = rows.num_rows, len(rows.asked_rows)
        parts = _parts(num_rows, num_asked)
        host = _HostNumbers(parts, 0, is_pinned=device.type == "cuda")
        host.load_rows(rows, num_rows)
        host.load_asked(rows, num_asked)
        words = host.words.to(device, non_blocking=True)
        return cls(words, parts, AttentionPlan.of(rows, heads, num_rows, device))

    def choice_arguments(self, num_asked: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Temperatures, seeds and positions of the asked rows, as ``specgrove.kernels.cuda.choices.choose`` takes them."""
        temperatures, seeds, positions = (part[:num_asked] for part in self._choices)
        return temperatures, seeds, positions


class PassBuffers(PassNumbers):
    """One pass on the device; on the host two by turns, so that one can be written while the other is being copied."""

    def __init__(self, limits: PassLimits, heads: AttentionHeads, device: torch.device) -> None:
        capacity = PlanCapacity.within(limits, heads, num_processors(device))
        parts = _parts(limits.max_num_rows, limits.max_num_asked)
        self.limits = limits
        self._heads, self._device = heads, device
        self._num_split_items = capacity.num_split_items
        self._plan_start = _num_words(parts)
        is_pinned = device.type == "cuda"
        self._hosts = deque(_HostNumbers(parts, capacity.num_numbers, is_pinned=is_pinned) for _ in range(2))
        self._words = torch.zeros(self._plan_start + capacity.num_numbers, dtype=torch.int32, device=device)
        plan = AttentionPlan.empty(capacity, heads, limits.max_num_rows, device, self._words[self._plan_start :])
        super().__init__(self._words, parts, plan)
        self.slots.fill_(_NO_SLOT)  # until a pass is loaded nothing is written

    @property
    def nbytes(self) -> int:
        """Bytes on the device; ``PassLimits.number_bytes`` and ``PlanCapacity.num_bytes`` say them beforehand."""
        return self._words.nbytes + self.plan.partials.nbytes + self.plan.arrived.nbytes

    def load(self, rows: PassRows, num_rows: int, num_asked: int) -> None:
        """Writes a pass, filled up to so many rows and asked rows, and begins its copy to the device.

        The copy of the pass before the last must have ended. Raises ``ValueError`` for rows that don't fit together.
        """
        rows.check()
        self._hosts.rotate()
        host = self._hosts[0]
        host.load_rows(rows, num_rows)
        host.load_asked(rows, num_asked)
        plan = host.words[self._plan_start :]
        num_words = self._plan_start + write_plan(rows, self._heads, plan, self._num_split_items, self._device)
        self._words[:num_words].copy_(host.words[:num_words], non_blocking=True)
