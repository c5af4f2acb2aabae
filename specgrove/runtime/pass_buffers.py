"""The numbers of one forward pass, in memory that stays where it is: written on the host, copied to the device in one piece.

Owned by a ``GraphRunner``, whose captured graphs read them at their addresses. Rows that only fill a pass up have no slot.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

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
    """A part of the numbers on both sides."""

    def __init__(self, host: torch.Tensor, device: torch.Tensor) -> None:
        self.host = host
        self.device = device

    def fill(self, values: array[int] | array[float], size: int, filler: int) -> None:
        """The first ``size`` numbers: ``values``, then fillers."""
        num_values = len(values)
        if num_values:
            self.host[:num_values] = torch.frombuffer(values, dtype=_DTYPES[values.typecode])
        self.host[num_values:size] = filler


_DTYPES = {"i": torch.int32, "q": torch.int64, "f": torch.float32}


class PassBuffers:
    """One pass at a time."""

    def __init__(self, limits: PassLimits, heads: AttentionHeads, device: torch.device) -> None:
        capacity = PlanCapacity.of(heads, limits.max_num_rows, limits.max_len, limits.num_slots)
        self.limits = limits
        self._heads = heads
        self._device = device
        rows, asked = limits.max_num_rows, limits.max_num_asked
        # Those of 8 bytes first: they begin at multiples of 8.
        sizes = {"seeds": 2 * asked, "choice_positions": 2 * asked, "temperatures": asked, "asked_rows": asked}
        sizes |= {"token_ids": rows, "positions": rows, "slots": rows}
        self._plan_start = sum(sizes.values()) + sum(sizes.values()) % 2
        num_numbers = self._plan_start + capacity.num_numbers
        self._host = torch.zeros(num_numbers, dtype=torch.int32, pin_memory=device.type == "cuda")
        self._numbers = torch.zeros(num_numbers, dtype=torch.int32, device=device)
        self._parts: dict[str, _Part] = {}
        start = 0
        for name, size in sizes.items():
            dtype = {"seeds": torch.int64, "choice_positions": torch.int64, "temperatures": torch.float32}.get(name)
            whole = slice(start, start + size)
            host, there = self._host[whole], self._numbers[whole]
            self._parts[name] = _Part(
                host if dtype is None else host.view(dtype), there if dtype is None else there.view(dtype)
            )
            start += size
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
        parts = self._parts
        for name, values, size, filler in (
            ("token_ids", rows.token_ids, num_rows, 0),
            ("positions", rows.positions, num_rows, 0),
            ("slots", rows.slots, num_rows, _NO_SLOT),
            ("asked_rows", rows.asked_rows, num_asked, 0),
        ):
            parts[name].fill(values, size, filler)
        choices = rows.choices
        parts["temperatures"].fill(
            array("f", [0.0 if choice is None else choice.params.temperature for choice in choices]), num_asked, 0
        )
        parts["seeds"].fill(
            array("q", [0 if choice is None else _signed(choice.params.seed) for choice in choices]), num_asked, 0
        )
        parts["choice_positions"].fill(
            array("q", [0 if choice is None else choice.position for choice in choices]), num_asked, 0
        )
        num_numbers = self._plan_start + write_plan(rows, self._heads, self._host[self._plan_start :], self._device)
        self._numbers[:num_numbers].copy_(self._host[:num_numbers], non_blocking=True)


def _signed(seed: int) -> int:
    """The same 64 bits as an int64."""
    return seed - (1 << 64) if seed >= 1 << 63 else seed
