"""How fast this machine reads memory: what a pass can't be faster than.

Measured by ``specgrove doctor``, and by the benchmarks in the run they report.
"""

from __future__ import annotations

import time

from specgrove.kernels import _native
from specgrove.kernels.threads import get_num_threads, set_num_threads

BUFFER_BYTES = 1 << 30
"""Far more than any cache."""
_NUM_STREAMS = (1, 4, 8)  # side by side in each thread; which is fastest depends on the processor
_NUM_TIMES = 2


class ReadBandwidth:
    """Owns the buffer, in huge pages as weights are. ``measure`` is called right before and after what is compared with it.

    On a shared machine the bandwidth changes from one second to the next: on ours between two levels, about 33 and 57 GB/s.
    """

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._reader = _native.MemoryReader(BUFFER_BYTES)
        self.all_gb_per_s: list[float] = []

    def measure(self) -> float:
        """Bytes read per nanosecond by the best of some ways to read, the best of a few times. All threads read, each its part."""
        before = get_num_threads()
        if before != self._num_threads:
            set_num_threads(self._num_threads)
        seconds = min(self._seconds(num_streams) for _ in range(_NUM_TIMES) for num_streams in _NUM_STREAMS)
        if before != self._num_threads:
            set_num_threads(before)
        self.all_gb_per_s.append(BUFFER_BYTES / seconds / 1e9)
        return self.all_gb_per_s[-1]

    def _seconds(self, num_streams: int) -> float:
        started_s = time.perf_counter()
        self._reader.read(num_streams)
        return time.perf_counter() - started_s
