"""How fast this machine reads memory: what a decoding step can't be faster than. Measured by the benchmarks in the run they report."""

from __future__ import annotations

import time

import torch

_BUFFER_BYTES = 1 << 30  # far more than any cache
_NUM_TIMES = 3


class ReadBandwidth:
    """Owns the buffer. ``measure`` is called right before and after what is compared with it.

    On a shared machine the bandwidth changes from one second to the next: on ours between two levels, about 33 and 57 GB/s.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._buffer = torch.ones(_BUFFER_BYTES // 8, dtype=torch.int64)
        self.all_gb_per_s: list[float] = []

    def measure(self) -> float:
        """Bytes read per nanosecond, the best of a few times. All threads read, each its part."""
        before = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        times_s = []
        for _ in range(_NUM_TIMES):
            started_s = time.perf_counter()
            self._buffer.sum()
            times_s.append(time.perf_counter() - started_s)
        torch.set_num_threads(before)
        self.all_gb_per_s.append(_BUFFER_BYTES / min(times_s) / 1e9)
        return self.all_gb_per_s[-1]
