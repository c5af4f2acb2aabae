"""Programs of saved models on any backend, with caches of their own, and the passes that tests run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.family import family_of, read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.weights.checkpoint import read_weights
from specgrove.models.weights.opening import open_checkpoint
from specgrove.program.backend import Executable, KvCaches, PassOutput
from specgrove.program.build import build
from specgrove.program.program import Program
from specgrove.program.stores import WeightStore
from specgrove.program.tensor_group import OneRank, TensorGroup
from specgrove.program.torch_backend import TorchWeights
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

NUM_SLOTS = 64
PROMPT = [5, 1, 44, 90, 3, 3, 17, 60, 2, 8, 31]


def in_float64() -> TorchWeights:
    """The reference."""
    return TorchWeights(torch.device("cpu"), torch.float64)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program, and caches that a test can look at."""

    program: Program
    executable: Executable
    caches: KvCaches

    @classmethod
    def of(
        cls,
        folder: Path,
        dtype: torch.dtype,
        store: WeightStore,
        shard: Shard | None = None,
        group: TensorGroup | None = None,
        keep_hidden: Collection[int] = (),
    ) -> Loaded:
        """Of a saved model, or a rank's share of it; caches are zeros."""
        spec = read_spec(folder)
        with open_checkpoint(folder, dtype) as checkpoint:
            weights = read_weights(family_of(folder)[0], checkpoint, spec, shard or Shard.whole(spec))
            program = build(spec, weights, dtype, store, shard, keep_hidden)
        shape = (NUM_SLOTS, program.heads.num_kv_heads, program.heads.head_dim)
        keys, values = (
            tuple(torch.zeros(shape, dtype=dtype, device=store.device) for _ in range(program.num_layers))
            for _ in range(2)
        )
        return cls(program, store.executable(program, group or OneRank()), KvCaches(keys, values))

    def run(self, rows: PassRows, hidden: torch.Tensor | None = None) -> PassOutput:
        """One pass."""
        return self.executable.run(rows, self.caches, hidden)


def prompt_rows(token_ids: list[int] = PROMPT, *, is_asked: bool = True) -> PassRows:
    """A whole prompt, asked for logits after each of its tokens, or for none."""
    builder = PassBuilder()
    builder.add(range(3, 3 + len(token_ids)), token_ids)
    rows = builder.build()
    if is_asked:
        rows.asked_rows.extend(range(rows.num_rows))
        rows.choices.extend([None] * rows.num_rows)
    return rows


def some_passes() -> list[PassRows]:
    """Two prompts, one of them in three chunks, the first without logits; then trees of six nodes and of one."""
    first, second = list(range(3, 3 + len(PROMPT))), [40, 41, 42, 43]
    start, prompts, chunk, trees = PassBuilder(), PassBuilder(), PassBuilder(), PassBuilder()
    start.add(first[:4], PROMPT[:4])
    prompts.add(first[:9], PROMPT[4:9], chunk_logits=True)
    prompts.add(second, [96, 0, 12, 13], chunk_logits=True)
    chunk.add(first, PROMPT[9:], chunk_logits=True)
    trees.add(first, (), TreeRows([3, 10, 11, 12, 13, 14], [-1, 0, 0, 1, 3, 2], [30, 22, 25, 21, 50, 20]))
    trees.add(second, (), TreeRows([9], [-1], [60]))
    return [start.build(), prompts.build(), chunk.build(), trees.build()]
