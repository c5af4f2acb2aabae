"""Capturing launches into CUDA graphs, and what stands for it where there is no GPU. Given to ``CapturedProgram`` and ``GraphRunner``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch


class Graphs(Protocol):
    """Captures what a function launches, for replays at the same addresses."""

    def stream(self) -> AbstractContextManager[object]:
        """Everything of one runner happens on one stream."""
        ...

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """What replays it. ``run`` is called at least once."""
        ...

    def copied(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """Begins a copy to the host's pinned memory; what waits for it."""
        ...


class CudaGraphs:
    """On a stream of its own. Graphs share one pool of memory: they never run side by side, and what they leave lies outside of it."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def stream(self) -> AbstractContextManager[object]:
        """See ``Graphs``."""
        return torch.cuda.stream(self._stream)

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """See ``Graphs``."""
        run()  # kernels are loaded at their first launch
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            run()
        return graph.replay

    def copied(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """See ``Graphs``."""
        target.copy_(source, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event.synchronize


class NoGraphs:
    """For the emulator: everything is done at once, and again at every replay."""

    def stream(self) -> AbstractContextManager[object]:
        """See ``Graphs``."""
        return nullcontext()

    def capture(self, run: Callable[[], None]) -> Callable[[], None]:
        """See ``Graphs``."""
        run()
        return run

    def copied(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """See ``Graphs``."""
        target.copy_(source)
        return lambda: None
