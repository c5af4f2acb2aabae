"""The numbers of one forward pass, in memory that stays where it is: written on the host, copied to the device in one piece.

Owned by a ``GraphRunner``, whose captured graphs read them at their addresses. Rows that only fill a pass up have no slot.
"""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from specgrove.kernels.cuda.attention import AttentionPlan, write_plan
from specgrove.kernels.cuda.backend import num_processors
from specgrove.kernels.device_memory import AttentionHeads, PassLimits, PlanCapacity
from specgrove.kernels.rows import PassRows
from specgrove.program.device_ops import DeviceRows

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


class _HostNumbers:
    """The numbers on the host, written through plain views: a torch call takes ten times as long."""

    def __init__(self, num_words: int, parts: dict[str, _Part], *, is_pinned: bool) -> None:
        self.words = torch.zeros(num_words, dtype=torch.int32, pin_memory=is_pinned)
        memory: Any = memoryview((ctypes.c_char * self.words.nbytes).from_address(self.words.data_ptr())).cast("B")
        self._views, self._fillers = {}, {}
        start = 0
        for name, part in parts.items():
            end = start + part.num_words
            self._views[name] = memory[4 * start : 4 * end].cast(part.format)
            self._fillers[name] = array(part.format, [part.filler]) * part.size
            start = end

    def fill(self, name: str, values: Iterable[int] | Iterable[float], size: int) -> None:
        """The first ``size`` numbers of a part: ``values``, then fillers."""
        fillers = self._fillers[name]
        numbers = array(fillers.typecode, values)
        num_values = len(numbers)
        self._views[name][:num_values] = numbers
        self._views[name][num_values:size] = fillers[num_values:size]


class PassBuffers:
    """One pass on the device; on the host two by turns, so that one can be written while the other is being copied."""

    def __init__(self, limits: PassLimits, heads: AttentionHeads, device: torch.device) -> None:
        capacity = PlanCapacity.of(
            heads, limits.max_num_rows, limits.max_model_len, limits.num_slots, num_processors(device)
        )
        self.limits = limits
        self._heads = heads
        self._num_split_items = capacity.num_split_items
        self._device = device
        rows, asked = limits.max_num_rows, limits.max_num_asked
        # Those of 8 bytes first: they begin at multiples of 8.
        parts = {
            "seeds": _Part(asked, "q", 0),
            "choice_positions": _Part(asked, "q", 0),
            "temperatures": _Part(asked, "f", 0),
            "asked_rows": _Part(asked, "i", 0),
            "token_ids": _Part(rows, "i", 0),
            "positions": _Part(rows, "i", 0),
            "slots": _Part(rows, "i", _NO_SLOT),
        }
        self._plan_start = sum(part.num_words for part in parts.values())
        num_words = self._plan_start + capacity.num_numbers
        is_pinned = device.type == "cuda"
        self._hosts = deque(_HostNumbers(num_words, parts, is_pinned=is_pinned) for _ in range(2))
        self._words = torch.zeros(num_words, dtype=torch.int32, device=device)
        pieces = torch.split(self._words[: self._plan_start], [part.num_words for part in parts.values()])
        self._there: dict[str, torch.Tensor] = {
            name: piece.view(_FORMATS[part.format]) for (name, part), piece in zip(parts.items(), pieces, strict=True)
        }
        self._there["slots"].fill_(_NO_SLOT)  # until a pass is loaded nothing is written
        self._plan = AttentionPlan.empty(capacity, heads, rows, device, self._words[self._plan_start :])

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._words.nbytes + self._plan.partials.nbytes + self._plan.arrived.nbytes

    def rows(self, num_rows: int) -> DeviceRows:
        """The first rows, as a decoder takes them; all asked rows."""
        return DeviceRows(
            token_ids=self._there["token_ids"][:num_rows],
            positions=self._there["positions"][:num_rows],
            slots=self._there["slots"][:num_rows],
            logit_rows=self._there["asked_rows"],
            attention=self._plan.of_rows(num_rows),
        )

    def asked_rows(self, num_asked: int) -> torch.Tensor:
        """int32 ``[num_asked]``."""
        return self._there["asked_rows"][:num_asked]

    def choice_arguments(self, num_asked: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Temperatures, seeds and positions of the asked rows, as ``specgrove.kernels.cuda.choices.choose`` takes them."""
        names = ("temperatures", "seeds", "choice_positions")
        temperatures, seeds, positions = (self._there[name][:num_asked] for name in names)
        return temperatures, seeds, positions

    def load(self, rows: PassRows, num_rows: int, num_asked: int) -> None:
        """Writes a pass, filled up to so many rows and asked rows, and begins its copy to the device.

        The copy of the pass before the last must have ended. Raises ``ValueError`` for rows that don't fit together.
        """
        rows.check()
        host = self._next_host(rows, num_asked)
        host.fill("token_ids", rows.token_ids, num_rows)
        host.fill("positions", rows.positions, num_rows)
        host.fill("slots", rows.slots, num_rows)
        host.fill("asked_rows", rows.asked_rows, num_asked)
        plan = host.words[self._plan_start :]
        num_words = self._plan_start + write_plan(rows, self._heads, plan, self._num_split_items, self._device)
        self._words[:num_words].copy_(host.words[:num_words], non_blocking=True)

    def load_choices(self, rows: PassRows) -> None:
        """``load`` of what choices need, for a pass whose rows run without these buffers."""
        host = self._next_host(rows, len(rows.choices))
        self._words[: self._plan_start].copy_(host.words[: self._plan_start], non_blocking=True)

    def _next_host(self, rows: PassRows, num_asked: int) -> _HostNumbers:
        """The other turn's, with the arguments of the choices."""
        self._hosts.rotate()
        host, choices = self._hosts[0], rows.choices
        host.fill("temperatures", (0.0 if one is None else one.params.temperature for one in choices), num_asked)
        host.fill("seeds", (0 if one is None else _signed(one.params.seed) for one in choices), num_asked)
        host.fill("choice_positions", (0 if one is None else one.position for one in choices), num_asked)
        return host


def _signed(seed: int) -> int:
    """The same 64 bits as an int64."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed
