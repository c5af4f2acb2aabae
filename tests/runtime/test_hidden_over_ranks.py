"""Hidden states of a model over tensor-parallel ranks: all ranks run the same program, so that their sums are of the same rows.

Ranks are threads; the model and its sums of parts are real.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from specgrove.models.decoder.family import read_spec
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.models.decoder.sharding import Shard
from specgrove.program.loading import load_decoder
from specgrove.program.stores import MappedWeights, MemoryWeights, WeightStore
from specgrove.runtime import parallel_runner
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.parallel_runner import ParallelRunner, RankLinks, run_worker
from tests.models.families import save_tiny
from tests.program.programs import some_passes
from tests.runtime.toy_ranks import WAIT_S, Network, Watch

SIZE = 2


class Meeting:
    """Where threads bring their parts."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(SIZE)
        self.parts: list[torch.Tensor] = [torch.empty(0)] * SIZE


@dataclass
class ThreadGroup:
    """A ``TensorGroup`` of threads; unlike numbers of rows break it, as they break Gloo's."""

    rank: int
    meeting: Meeting
    size: int = SIZE
    can_be_captured: bool = False

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        first, second = self._gathered(part)
        return part.copy_(first + second)

    def concatenated(self, part: torch.Tensor, widths: tuple[int, ...]) -> torch.Tensor:
        return torch.cat(self._gathered(part), dim=1)

    def _gathered(self, part: torch.Tensor) -> list[torch.Tensor]:
        meeting = self.meeting
        meeting.parts[self.rank] = part.clone()
        meeting.barrier.wait(WAIT_S)
        parts = list(meeting.parts)
        meeting.barrier.wait(WAIT_S)
        if len({len(each) for each in parts}) > 1:
            meeting.barrier.abort()
            raise RuntimeError(f"ranks bring unlike numbers of rows: {[len(each) for each in parts]}")
        return parts


@pytest.mark.parametrize("is_streamed", [False, True])
def test_any_layer_is_handed_out_over_tensor_ranks(
    is_streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny("llama", tmp_path)
    num_layers = read_spec(tmp_path).num_layers

    def store() -> WeightStore:
        return MappedWeights(tmp_path / "cache", 0) if is_streamed else MemoryWeights()

    network, meeting, layout = Network(SIZE), Meeting(), ParallelLayout(SIZE, 1)
    monkeypatch.setattr(parallel_runner, "dist", network)
    runners, links = [], []
    for rank in range(SIZE):
        group = ThreadGroup(rank, meeting)
        decoder = load_decoder(
            tmp_path, torch.float32, shard=Shard(rank, SIZE, 0, num_layers), group=group, store=store()
        )
        runners.append(ModelRunner(decoder, 64))
        links.append(RankLinks(layout, rank, group))
    failures: list[BaseException] = []

    def work() -> None:
        network.become(1)
        try:
            run_worker(runners[1], links[1])
        except BaseException as error:
            failures.append(error)
            meeting.barrier.abort()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    runner = ParallelRunner(runners[0], links[0], Watch())
    alone = ModelRunner(load_decoder(tmp_path, torch.float32), 64)
    for layers in ((num_layers,), (), (0, 1), (1, num_layers)):
        asks_nothing = replace(some_passes()[0], asked_rows=some_passes()[0].asked_rows[:0], choices=[])
        for rows in (asks_nothing, *some_passes()):
            told = replace(rows, hidden_layers=layers)
            runner.start(told)
            found, expected = runner.finish(), alone.run(told)
            assert torch.allclose(found.logits, expected.logits, atol=1e-4)
            assert len(found.hidden) == len(layers)
            for states, others in zip(found.hidden, expected.hidden, strict=True):
                assert torch.allclose(states, others, atol=1e-4)
    runner.stop_workers()
    thread.join(WAIT_S)
    assert failures == []
