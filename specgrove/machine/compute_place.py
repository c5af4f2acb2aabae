"""What a service computes on, so that it can be seen whether two services take it from each other. No torch.

Services tell theirs when a router connects. Invariant: where it is not known, it is taken to be shared.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ComputePlace:
    """``machine`` is one for all processes of a machine, those in containers too; empty: not known.

    ``accelerator`` is unique in the machine; empty: processor cores, which are ``cpu_ids`` for ``num_threads`` threads.
    """

    machine: str = ""
    accelerator: str = ""
    cpu_ids: frozenset[int] = frozenset()
    num_threads: int = 0

    @classmethod
    def here(cls, accelerator: str, num_threads: int) -> ComputePlace:
        """This process's."""
        machine = _BOOT_ID.read_text().strip() if _BOOT_ID.is_file() else ""
        return cls(machine, accelerator, frozenset(os.sched_getaffinity(0)), num_threads)

    def is_shared_with(self, other: ComputePlace) -> bool:
        """Whether what computes here may wait for what computes there."""
        if not self.machine or not other.machine:
            return True
        if self.machine != other.machine or self.accelerator != other.accelerator:
            return False
        if self.accelerator:
            return True
        is_apart = self.cpu_ids.isdisjoint(other.cpu_ids)
        return not is_apart and self.num_threads + other.num_threads > len(self.cpu_ids | other.cpu_ids)
