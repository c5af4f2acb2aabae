"""The machine that this process runs on, as figures that are measured on it name it. Used by ``doctor``, ``bench`` and the benchmarks."""

from __future__ import annotations

from pathlib import Path


def processor_name(root: Path = Path("/")) -> str:
    """As the system tells it; empty where it doesn't."""
    lines = (root / "proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
