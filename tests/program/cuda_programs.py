"""Programs of tiny models on the kernels for GPUs, and groups of ranks that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from specgrove.models.decoder.sharding import Shard
from specgrove.program.cuda import CudaProgram
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.tensor_group import TensorGroup
from tests.program.programs import Loaded
from tests.waiting import LIMIT_S

Result = TypeVar("Result")


def on_kernels(
    folder: Path,
    device: torch.device,
    shard: Shard | None = None,
    group: TensorGroup | None = None,
    store: DeviceWeights | None = None,
    keep_hidden: Collection[int] = (),
) -> Loaded:
    """A saved model in bfloat16, or a rank's share of it. On the CPU the emulator has the kernels."""
    store = store or DeviceWeights(device, has_kernels=True)
    return Loaded.of(folder, torch.bfloat16, store, shard, group, keep_hidden)


def cuda_program(loaded: Loaded) -> CudaProgram:
    """What runs it."""
    assert isinstance(loaded.executable, CudaProgram)
    return loaded.executable


class TakingTurns:
    """Tensor ranks that are threads of one process; one computes at a time, because the emulator has one GPU."""

    size = 2

    def __init__(self, rank: int, shared: TakingTurns | None = None, *, can_be_captured: bool = False) -> None:
        self.rank, self.can_be_captured = rank, can_be_captured
        self._turn = threading.Lock() if shared is None else shared._turn
        self._barrier = threading.Barrier(self.size) if shared is None else shared._barrier
        self._parts: list[torch.Tensor] = [torch.empty(0)] * self.size if shared is None else shared._parts

    @classmethod
    def pair(cls, *, can_be_captured: bool = False) -> list[TakingTurns]:
        """Both ranks."""
        first = cls(0, can_be_captured=can_be_captured)
        return [first, cls(1, first, can_be_captured=can_be_captured)]

    def run(self, function: Callable[[], Result]) -> Result:
        with self._turn:
            return function()

    def _gathered(self, part: torch.Tensor) -> list[torch.Tensor]:
        self._parts[self.rank] = part
        self._turn.release()
        self._barrier.wait()
        found = [each.clone() for each in self._parts]
        self._barrier.wait()
        self._turn.acquire()
        return found

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        first, second = self._gathered(part)
        return first + second

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        return torch.cat(self._gathered(part), dim=1)


def of_ranks(groups: Sequence[TakingTurns], function: Callable[[int], Result]) -> list[Result]:
    """What the ranks' threads return."""
    with ThreadPoolExecutor(len(groups)) as pool:
        runs = [pool.submit(group.run, partial(function, group.rank)) for group in groups]
        return [run.result(timeout=LIMIT_S) for run in runs]
