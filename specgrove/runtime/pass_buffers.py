"""The numbers of one forward pass, in memory that stays where it is: written on the host, copied to the device in one piece.

Owned by a ``GraphRunner``, whose captured graphs read them at their addresses. Rows that only fill a pass up have no slot.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from specgrove.kernels.cuda.attention import AttentionHeads, AttentionPlan, PlanCapacity, write_plan
from specgrove.kernels.model_step import StepRows
from specgrove.models.device_ops import DeviceRows

_NO_SLOT = -1


@dataclass(frozen=True, slots=True)
class PassLimits:
    """Of the passes that buffers are made for."""

    max_num_rows: int
    max_num_asked: int
    max_len: int
    """Keys that a row sees."""
    num_slots: int


class _Part:
    """A part of the numbers on both sides. The host's is written through a plain view: a torch call takes ten times as long."""

    def __init__(self, host: Any, device: torch.Tensor, filler: int) -> None:
        self._host = host
        self._fillers = array(host.format, [filler]) * len(host)
        self.device = device

    def fill(self, values: Iterable[int] | Iterable[float], size: int) -> None:
        """The first ``size`` numbers: ``values``, then fillers."""
        numbers = array(self._host.format, values)
        num_values = len(numbers)
        self._host[:num_values] = numbers
        self._host[num_values:size] = self._fillers[num_values:size]


_FORMATS = {"i": torch.int32, "q": torch.int64, "f": torch.float32}


class PassBuffers:
    """One pass at a time."""

    def __init__(self, limits: PassLimits, heads: AttentionHeads, device: torch.device) -> None:
        capacity = PlanCapacity.of(heads, limits.max_num_rows, limits.max_len, limits.num_slots)
        self.limits = limits
        self._heads = heads
        self._device = device
        rows, asked = limits.max_num_rows, limits.max_num_asked
        # Name: number of numbers, their format, and what rows that only fill a pass have. Those of 8 bytes first: they begin at
        # multiples of 8.
        parts = {
            "seeds": (asked, "q", 0),
            "choice_positions": (asked, "q", 0),
            "temperatures": (asked, "f", 0),
            "asked_rows": (asked, "i", 0),
            "token_ids": (rows, "i", 0),
            "positions": (rows, "i", 0),
            "slots": (rows, "i", _NO_SLOT),
        }
        sizes = {name: size * _FORMATS[form].itemsize // 4 for name, (size, form, _) in parts.items()}
        self._plan_start = sum(sizes.values())
        num_numbers = self._plan_start + capacity.num_numbers
        self._host = torch.zeros(num_numbers, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._numbers = torch.zeros(num_numbers, dtype=torch.int32, device=device)
        host: Any = memoryview((ctypes.c_char * self._host.nbytes).from_address(self._host.data_ptr())).cast("B")
        self._parts: dict[str, _Part] = {}
        start = 0
        for name, (_, form, filler) in parts.items():
            end = start + sizes[name]
            there = self._numbers[start:end].view(_FORMATS[form])
            self._parts[name] = _Part(host[4 * start : 4 * end].cast(form), there, filler)
            start = end
        self._parts["slots"].device.fill_(_NO_SLOT)  # until a pass is loaded nothing is written
        self._plan = AttentionPlan.empty(capacity, heads, rows, device, self._numbers[self._plan_start :])

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._numbers.nbytes + self._plan.partials.nbytes + self._plan.arrived.nbytes

    def rows(self, num_rows: int) -> DeviceRows:
        """The first rows, as a decoder takes them; all asked rows."""
        first = slice(num_rows)
        return DeviceRows(
            token_ids=self._parts["token_ids"].device[first],
            positions=self._parts["positions"].device[first],
            slots=self._parts["slots"].device[first],
            logit_rows=self._parts["asked_rows"].device,
            attention=self._plan.of_rows(num_rows),
        )

    def asked_rows(self, num_asked: int) -> torch.Tensor:
        """int32 ``[num_asked]``."""
        return self._parts["asked_rows"].device[:num_asked]

    def choice_arguments(self, num_asked: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Temperatures, seeds and positions of the asked rows, as ``specgrove.kernels.cuda.choices.choose`` takes them."""
        names = ("temperatures", "seeds", "choice_positions")
        temperatures, seeds, positions = (self._parts[name].device[:num_asked] for name in names)
        return temperatures, seeds, positions

    def load(self, rows: StepRows, num_rows: int, num_asked: int) -> None:
        """Writes a pass, filled up to so many rows and asked rows, and begins its copy to the device.

        The copy of the pass before must have ended. Raises ``ValueError`` for rows that don't fit together.
        """
        rows.check()
        parts, choices = self._parts, rows.choices
        parts["token_ids"].fill(rows.token_ids, num_rows)
        parts["positions"].fill(rows.positions, num_rows)
        parts["slots"].fill(rows.slots, num_rows)
        parts["asked_rows"].fill(rows.asked_rows, num_asked)
        parts["temperatures"].fill((0.0 if one is None else one.params.temperature for one in choices), num_asked)
        parts["seeds"].fill((0 if one is None else _signed(one.params.seed) for one in choices), num_asked)
        parts["choice_positions"].fill((0 if one is None else one.position for one in choices), num_asked)
        num_numbers = self._plan_start + write_plan(rows, self._heads, self._host[self._plan_start :], self._device)
        self._numbers[:num_numbers].copy_(self._host[:num_numbers], non_blocking=True)


def _signed(seed: int) -> int:
    """The same 64 bits as an int64."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed
