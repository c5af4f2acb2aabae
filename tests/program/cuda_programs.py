"""Programs of tiny models on the kernels for GPUs, with caches of their own, and groups of ranks that are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.weights.checkpoint import read_weights
from specgrove.models.weights.opening import open_checkpoint
from specgrove.program.backend import KvCaches, PassOutput
from specgrove.program.build import build
from specgrove.program.cuda import CudaProgram
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.tensor_group import OneRank, TensorGroup
from tests.waiting import LIMIT_S

NUM_SLOTS = 64
DTYPE = torch.bfloat16
Result = TypeVar("Result")


def cuda_program(
    folder: Path,
    device: torch.device,
    shard: Shard | None = None,
    group: TensorGroup | None = None,
    store: DeviceWeights | None = None,
    keep_hidden: Collection[int] = (),
) -> CudaProgram:
    """Of a saved model, or a rank's share of it."""
    spec, store = read_spec(folder), store or DeviceWeights(device, has_kernels=True)
    with open_checkpoint(folder, DTYPE) as checkpoint:
        weights = read_weights(family_of(folder)[0], checkpoint, spec, shard or Shard.whole(spec))
        program = build(spec, weights, DTYPE, store, shard, keep_hidden)
    made = store.executable(program, group or OneRank())
    assert isinstance(made, CudaProgram)
    return made


def caches_of(made: CudaProgram) -> KvCaches:
    """Zeros."""
    heads = made.program.heads
    keys, values = (
        tuple(
            torch.zeros(NUM_SLOTS, heads.num_kv_heads, heads.head_dim, dtype=made.dtype, device=made.device)
            for _ in range(made.program.num_layers)
        )
        for _ in range(2)
    )
    return KvCaches(keys, values)


def outputs(made: CudaProgram, passes: Sequence[PassRows], hidden: Sequence[torch.Tensor] = ()) -> list[PassOutput]:
    """Of passes after one another; ``hidden`` is what each takes in."""
    caches = caches_of(made)
    given: list[torch.Tensor | None] = [*hidden] if hidden else [None] * len(passes)
    return [made.run(rows, caches, states) for rows, states in zip(passes, given, strict=True)]


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


def of_both(groups: Sequence[TakingTurns], function: Callable[[int], Result]) -> list[Result]:
    """What the ranks' threads return."""
    with ThreadPoolExecutor(len(groups)) as pool:
        runs = [pool.submit(group.run, partial(function, group.rank)) for group in groups]
        return [run.result(timeout=LIMIT_S) for run in runs]
