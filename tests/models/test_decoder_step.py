"""The native step and the kernels called one by one from Python: the same bits for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specgrove.kernels.rows import PassRows
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.sharding import Shard
from specgrove.models.weights.quantization import quantize_folder
from specgrove.program.forward_batch import ForwardBatch
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MemoryWeights, WeightStore
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.models.families import VARIANTS, save_tiny
from tests.models.test_decoder import PROMPTS

NUM_SLOTS = 64


class CalledOneByOne(MemoryWeights):
    """In memory, but the decoder has to tell it of every layer, so it runs them one by one."""

    is_streamed = True


class Cached:
    """A decoder with caches that a test can look at."""

    def __init__(self, folder: Path, dtype: torch.dtype, store: WeightStore, shard: Shard | None = None) -> None:
        self.decoder = load_decoder(folder, dtype, shard=shard, store=store)
        shape = (NUM_SLOTS, self.decoder.heads.num_kv, self.decoder.spec.head_dim)
        self.k_caches, self.v_caches = (
            [torch.zeros(shape, dtype=dtype) for _ in range(self.decoder.num_layers)] for _ in range(2)
        )

    def forward(self, rows: PassRows) -> torch.Tensor:
        return self.decoder.forward(rows, self.k_caches, self.v_caches).logits


def _batches() -> list[PassRows]:
    """Two prompts, one of them in three chunks, the first without logits; then trees of six nodes and of one."""
    first, second = list(range(3, 3 + len(PROMPTS[0]))), [40, 41, 42, 43]
    start, prompts, chunk, trees = PassBuilder(), PassBuilder(), PassBuilder(), PassBuilder()
    start.add(first[:4], PROMPTS[0][:4])
    prompts.add(first[:9], PROMPTS[0][4:9], chunk_logits=True)
    prompts.add(second, PROMPTS[2], chunk_logits=True)
    chunk.add(first, PROMPTS[0][9:], chunk_logits=True)
    trees.add(first, (), TreeRows([3, 10, 11, 12, 13, 14], [-1, 0, 0, 1, 3, 2], [30, 22, 25, 21, 50, 20]))
    trees.add(second, (), TreeRows([9], [-1], [60]))
    return [start.build(), prompts.build(), chunk.build(), trees.build()]


def _assert_both_ways_are_equal(folder: Path, dtype: torch.dtype) -> None:
    in_one_call, one_by_one = (Cached(folder, dtype, store) for store in (MemoryWeights(), CalledOneByOne()))
    assert in_one_call.decoder._model_step is not None
    assert one_by_one.decoder._model_step is None
    for rows in _batches():
        assert torch.equal(in_one_call.forward(rows), one_by_one.forward(rows))
    for ours, theirs in zip(
        in_one_call.k_caches + in_one_call.v_caches, one_by_one.k_caches + one_by_one.v_caches, strict=True
    ):
        assert torch.equal(ours, theirs)
    assert all(cache.any() for cache in in_one_call.k_caches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_call_gives_the_bits_of_many(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path)
    _assert_both_ways_are_equal(tmp_path, dtype)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("variant", ["llama-tied-biases", "gpt-bigcode"])
def test_quantised_weights_too(variant: str, bits: int, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path / "source")
    quantize_folder(tmp_path / "source", tmp_path / "quantised", bits)
    _assert_both_ways_are_equal(tmp_path / "quantised", torch.bfloat16)


def test_a_stage_of_a_pipeline_runs_its_layers(tiny_llama: Path) -> None:
    rows, spec = _batches()[1], read_spec(tiny_llama)
    torch.manual_seed(0)
    hidden = torch.randn(rows.num_rows, spec.hidden_size)
    results = []
    for store in (MemoryWeights(), CalledOneByOne()):
        shard = Shard(0, 1, 1, spec.num_layers, is_first_stage=False)
        stage = Cached(tiny_llama, torch.bfloat16, store, shard)
        results.append(stage.decoder.run_layers(hidden.clone(), ForwardBatch(rows), stage.k_caches, stage.v_caches))
    assert torch.equal(*results)
