"""Programs by captured graphs against the same programs without: the same bits, at the same places, over ranks too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from specgrove.kernels.device_memory import PassLimits
from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard
from specgrove.program.captured import CapturedProgram, bucket_for, buckets
from specgrove.program.graphs import CudaGraphs, Graphs, NoGraphs
from tests.models.families import DEVICE_VARIANTS, save_tiny
from tests.program.cuda_programs import NUM_SLOTS, TakingTurns, caches_of, cuda_program, of_both, outputs
from tests.program.test_cuda import CPU, PASSES
from tests.runtime.recorded_graphs import RecordedGraphs

LIMITS = PassLimits(max_num_rows=4, max_num_asked=3, max_model_len=NUM_SLOTS, num_slots=NUM_SLOTS)  # the tree asks more


@pytest.fixture
def graphs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    return CudaGraphs(device) if device.type == "cuda" else RecordedGraphs(monkeypatch)


@pytest.mark.parametrize("variant", ["llama", "opt-350m"])
def test_stages_by_graphs(variant: str, device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    """What comes in is taken from outside, and what is handed out lies where it lay the pass before."""
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    num_layers = read_spec(tmp_path).num_layers
    first = cuda_program(tmp_path, device, Shard(0, 1, 0, 1, is_last_stage=False))
    second = cuda_program(tmp_path, device, Shard(0, 1, 1, num_layers, is_first_stage=False))
    expected = outputs(cuda_program(tmp_path, device), PASSES)
    places = set()
    with graphs.stream(), torch.inference_mode():
        stages = [CapturedProgram(made, LIMITS, caches_of(made), graphs) for made in (first, second)]
        for rows, output in zip(PASSES, expected, strict=True):
            (hidden,) = stages[0].begin(rows).kept
            places.add(hidden.data_ptr())
            assert hidden.shape == (rows.num_rows, read_spec(tmp_path).hidden_size)
            assert torch.equal(stages[1].begin(rows, hidden).logits.cpu(), output.logits)
    assert len(places) == 2, "one for the passes within the limits, one for the other"


@pytest.mark.parametrize("variant", ["llama", "falcon-7b"])
def test_sums_over_ranks_are_in_the_graphs(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    layout, spec, groups = ParallelLayout(tensor_size=2), read_spec(tmp_path), TakingTurns.pair(can_be_captured=True)
    ranks = [cuda_program(tmp_path, CPU, layout.shard_of(group.rank, spec), group) for group in groups]

    def by_graphs(rank: int) -> list[torch.Tensor]:
        with torch.inference_mode():
            captured = CapturedProgram(ranks[rank], LIMITS, caches_of(ranks[rank]), NoGraphs())
            return [captured.begin(rows).logits.clone() for rows in PASSES]

    expected = of_both(groups, lambda rank: [output.logits for output in outputs(ranks[rank], PASSES)])
    for found, wanted in zip(of_both(groups, by_graphs), expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_sums_that_the_host_adds_can_not_be_captured(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    shard = ParallelLayout(tensor_size=2).shard_of(0, read_spec(tmp_path))
    made = cuda_program(tmp_path, CPU, shard, TakingTurns(0))
    with pytest.raises(ValueError, match="sums of ranks that the host adds"):
        CapturedProgram(made, LIMITS, caches_of(made), NoGraphs())


@pytest.mark.parametrize("largest", [1, 2, 5, 64, 65, 100, 256, 257, 768, 2000])
def test_buckets_grow_to_the_largest(largest: int) -> None:
    sizes = buckets(largest)
    assert sizes[-1] == largest
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) < 32
    for size in range(1, largest + 1):
        assert size <= bucket_for(size, sizes) <= max(2 * size, 8)
