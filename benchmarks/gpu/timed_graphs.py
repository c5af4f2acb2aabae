"""Graphs that tell how long the device was at a pass: marks around its replays, without waiting for anything.

Given to a ``GraphRunner`` by the steps of ``benchmarks.gpu`` in the place of ``CudaGraphs`` (or of ``NoGraphs``, in the emulator).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from specgrove.program.graphs import CudaGraphs, Graphs, NoGraphs

_NUM_REPEATS = 5


class TimedGraphs:
    """See ``Graphs``. A pass begins with its first replay, and ends where its answers' copy to the host begins."""

    def __init__(self, device: torch.device) -> None:
        self._inner: Graphs = CudaGraphs(device) if device.type == "cuda" else NoGraphs()
        self._is_cuda = device.type == "cuda"
        self._begin: torch.cuda.Event | float | None = None
        self._end: torch.cuda.Event | float | None = None
        self._replays: list[Callable[[], None]] = []

    def stream(self) -> AbstractContextManager[object]:
        """See ``Graphs``."""
        return self._inner.stream()

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """See ``Graphs``."""
        replay = self._inner.capture(run)

        def timed() -> None:
            if self._begin is None:
                self._begin = self._mark()
            self._replays.append(replay)
            replay()

        return timed

    def copied(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """See ``Graphs``."""
        if self._end is None:
            self._end = self._mark()
        return self._inner.copied(source, target)

    def forget(self) -> None:
        """Before a pass that is to be timed."""
        self._begin = self._end = None
        self._replays.clear()

    def device_ms(self) -> float:
        """Of the pass since ``forget``, which must have ended."""
        begin, end = self._begin, self._end
        if isinstance(begin, float) and isinstance(end, float):
            return (end - begin) * 1e3
        assert isinstance(begin, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        return float(begin.elapsed_time(end))

    def back_to_back_ms(self) -> float:
        """Of the replays of the pass since ``forget``, begun many times in a row: the device never waits for the host."""
        with self.stream(), torch.inference_mode():
            num_repeats = _NUM_REPEATS if self._is_cuda else 1
            begin = self._mark()
            for _ in range(num_repeats):
                for replay in self._replays:
                    replay()
            end = self._mark()
        if isinstance(begin, float) or isinstance(end, float):
            return (time.perf_counter() - float(begin)) * 1e3  # type: ignore[arg-type]
        end.synchronize()
        return float(begin.elapsed_time(end)) / num_repeats

    def _mark(self) -> torch.cuda.Event | float:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
