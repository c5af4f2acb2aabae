"""How many CPUs this process may use: what ``--threads`` is by default."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may run on, and no more than the container's quota (cgroup v2) allows, rounded up. At least 1."""
    num_cpus = len(os.sched_getaffinity(0))
    limit = root / "sys/fs/cgroup/cpu.max"
    if limit.is_file():
        quota, period = limit.read_text().split()
        if quota != "max":
            num_cpus = min(num_cpus, math.ceil(int(quota) / int(period)))
    return max(1, num_cpus)


def too_few_for(what: str, num_threads: int) -> str | None:
    """What to warn of where ``what`` computes with more threads than this process may use CPUs, or ``None``."""
    num_cpus = available_cpus()
    if num_threads <= num_cpus:
        return None
    return f"{what} on {num_cpus} CPU{'s' if num_cpus > 1 else ''}: threads wait for one another, and each step takes longer"
