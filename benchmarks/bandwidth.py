"""How fast this machine reads memory: what a decoding step can't be faster than. Measured by the benchmarks in the run they report."""

from __future__ import annotations

import time

import torch

_BUFFER_BYTES = 1 << 30  # far more than any cache


class ReadBandwidth:
    """Owns the buffer. ``measure`` is called between the rounds of a benchmark, and the best is what the machine can do."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._buffer = torch.ones(_BUFFER_BYTES // 8, dtype=torch.int64)
        self.best_gb_per_s = 0.0

    def measure(self, num_runs: int = 3) -> float:
        """Bytes read per nanosecond, the best so far. All threads read, each its part."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        for _ in range(num_runs):
            started_s = time.perf_counter()
            self._buffer.sum()
            self.best_gb_per_s = max(self.best_gb_per_s, _BUFFER_BYTES / (time.perf_counter() - started_s) / 1e9)
        torch.set_num_threads(before)
        return self.best_gb_per_s
