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
from tests.program.cuda_programs import TakingTurns, cuda_program, of_ranks, on_kernels
from tests.program.programs import NUM_SLOTS, Loaded, some_passes
from tests.runtime.recorded_graphs import RecordedGraphs

CPU = torch.device("cpu")
LIMITS = PassLimits(max_num_rows=8, max_num_asked=5, max_model_len=NUM_SLOTS, num_slots=NUM_SLOTS)  # of some passes


@pytest.fixture
def graphs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    return CudaGraphs(device) if device.type == "cuda" else RecordedGraphs(monkeypatch)


def captured(loaded: Loaded, graphs: Graphs) -> CapturedProgram:
    return CapturedProgram(cuda_program(loaded), LIMITS, loaded.caches, graphs)


@pytest.mark.parametrize("variant", ["llama", "opt-350m"])
def test_stages_by_graphs(variant: str, device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    """What comes in is taken from outside, and what is handed out by a graph lies where it lay before."""
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    spec, whole = read_spec(tmp_path), on_kernels(tmp_path, device)
    shards = Shard(0, 1, 0, 1, is_last_stage=False), Shard(0, 1, 1, spec.num_layers, is_first_stage=False)
    expected = [whole.run(rows).logits for rows in some_passes()]
    places = []
    with graphs.stream(), torch.inference_mode():
        first, second = (captured(on_kernels(tmp_path, device, shard), graphs) for shard in shards)
        for rows, logits in zip(some_passes(), expected, strict=True):
            (hidden,) = first.begin(rows).kept
            assert hidden.shape == (rows.num_rows, spec.hidden_size)
            assert torch.equal(second.begin(rows, hidden).logits.cpu(), logits)
            if first.fits(rows):
                places.append(hidden.data_ptr())
    assert len(places) == 2, "the others have too many rows, and too many that are asked"
    assert len(set(places)) == 1


@pytest.mark.parametrize("variant", ["llama", "falcon-7b"])
def test_sums_over_ranks_are_in_the_graphs(variant: str, tmp_path: Path) -> None:
    save_tiny(variant, tmp_path, DEVICE_VARIANTS)
    layout, spec, groups = ParallelLayout(tensor_size=2), read_spec(tmp_path), TakingTurns.pair(can_be_captured=True)

    def ranks() -> list[Loaded]:
        return [on_kernels(tmp_path, CPU, layout.shard_of(group.rank, spec), group) for group in groups]

    def by_graphs(loaded: Loaded) -> list[torch.Tensor]:
        with torch.inference_mode():
            program = captured(loaded, NoGraphs())
            return [program.begin(rows).logits.clone() for rows in some_passes()]

    plain, replayed = ranks(), ranks()
    expected = of_ranks(groups, lambda rank: [plain[rank].run(rows).logits for rows in some_passes()])
    for found, wanted in zip(of_ranks(groups, lambda rank: by_graphs(replayed[rank])), expected, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_graphs_take_no_hidden_states_of_another_pass(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    stage = captured(on_kernels(tmp_path, CPU, Shard(0, 1, 1, 2, is_first_stage=False)), NoGraphs())
    rows, width = some_passes()[0], stage.program.program.input_width
    assert width is not None
    with torch.inference_mode():
        stage.begin(rows, torch.ones(rows.num_rows, width))
        with pytest.raises(ValueError, match="takes hidden states from outside"):
            stage.begin(rows)
        with pytest.raises(ValueError, match="hidden must have the shape"):
            stage.begin(rows, torch.ones(1, width))


def test_sums_that_the_host_adds_can_not_be_captured(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    shard = ParallelLayout(tensor_size=2).shard_of(0, read_spec(tmp_path))
    with pytest.raises(ValueError, match="sums of ranks that the host adds"):
        captured(on_kernels(tmp_path, CPU, shard, TakingTurns(0)), NoGraphs())


@pytest.mark.parametrize("largest", [1, 2, 5, 64, 65, 100, 256, 257, 768, 2000])
def test_buckets_grow_to_the_largest(largest: int) -> None:
    sizes = buckets(largest)
    assert sizes[-1] == largest
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) < 32
    for size in range(1, largest + 1):
        assert size <= bucket_for(size, sizes) <= max(2 * size, 8)
