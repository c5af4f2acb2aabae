"""The GPU benchmark's parts on tiny shapes in the emulator: contestants, models, steps and their ratios. Times are not looked at."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from benchmarks.gpu import attention, models, steps
from benchmarks.gpu import card as card_module
from benchmarks.gpu.card import Card
from benchmarks.gpu.models import TINY_LLM, ModelShape, decoder_of, weight_bytes, write_folder
from benchmarks.gpu.rows import at_most, by_turns
from benchmarks.gpu.timed_graphs import TimedGraphs
from specgrove.program.loading import load_decoder
from specgrove.runtime.graph_runner import captured_whole
from tests.benchmarks.cards import fake_card, times_of
from tests.devices import DEVICES


def test_contestants_that_cannot_run_are_left_out(card: Card) -> None:
    def fails() -> None:
        raise RuntimeError("no such kernel\nand more")

    found = by_turns({"one": lambda: None, "two": fails}, card.clock, 3)
    assert found["two"] == "RuntimeError: no such kernel"
    assert not isinstance(found["one"], str)
    assert len(found["one"].all_ms) == 3


@pytest.mark.parametrize("device", DEVICES)
def test_attention_contestants_agree(device: str) -> None:
    case = attention.make_case(3, 70, 9, attention.TINY_HEADS, torch.device(device))
    expected = case.contestants[attention.OURS]().float()
    assert expected.shape == (3, 4, 9, 64)
    for name, run in case.contestants.items():
        assert torch.allclose(run().float().reshape(expected.shape), expected, atol=0.02), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [16, 8, 4])
def test_models_of_random_weights(bits: int, device: str) -> None:
    decoder = decoder_of(TINY_LLM, torch.device(device), bits)
    assert captured_whole(decoder) is not None
    num_weights = decoder.spec.num_parameters - TINY_LLM.vocab_size * TINY_LLM.hidden
    assert weight_bytes(decoder) >= num_weights * bits // 8


def test_sizes_are_those_of_the_models() -> None:
    assert 6.6e9 < models.LLAMA_7B.spec().num_parameters < 6.8e9
    assert 67e6 < models.LLAMA_68M.spec().num_parameters < 69e6
    assert 155e6 < models.LLAMA_160M.spec().num_parameters < 165e6
    assert models.LLAMA_7B.spec().head_dim == 128


def test_a_folder_can_be_loaded(tmp_path: Path) -> None:
    shape = ModelShape("test", 2, 64, 96, 1, vocab_size=96)
    write_folder(shape, tmp_path, has_weights=True)
    spec = load_decoder(tmp_path, torch.float16).spec
    assert (spec.num_layers, spec.vocab_size, spec.head_dim) == (2, 96, 64)


@pytest.mark.parametrize("device", DEVICES)
def test_device_times_are_within_the_walls(device: str) -> None:
    model = steps.TimedModel(TINY_LLM, 16, 4, 6, torch.device(device))
    times = steps.PassTimes()
    model.verify(model.tree(3), times)
    model.level(model.tree(4), times)
    assert all(0 < device < wall for device, wall in zip(times.device_ms, times.wall_ms, strict=True))
    assert len(times.back_to_back_ms) == 2
    assert isinstance(model._graphs, TimedGraphs)


def test_attentions_ratios(monkeypatch: pytest.MonkeyPatch) -> None:
    """More is better: twice the time of copying is half its share, and a slower peer makes us faster."""
    found = {attention.OURS: 2.0, attention.SDPA: 8.0, attention.SDPA_FOLDED: 6.0, attention.FLEX: 1.0}
    monkeypatch.setattr(attention, "by_turns", lambda *_: {name: times_of(ms) for name, ms in found.items()})
    outputs = {name: lambda: torch.ones(1, 2, 3, 4) for name in found}
    share, sdpa, flex = attention.case_rows("what", attention.Case(outputs, 1_000_000), fake_card())
    assert [row.value for row in (share, sdpa, flex)] == [0.5, 3.0, 0.5]
    assert [str(row.target) for row in (share, sdpa, flex)] == [">= 0.75", ">= 1.5", ">= 1"]
    assert [row.verdict for row in (share, sdpa, flex)] == ["missed", "met", "missed"]
    outputs[attention.OURS] = lambda: torch.zeros(1, 2, 3, 4)  # fast, and wrong
    (row,) = attention.case_rows("what", attention.Case(outputs, 1_000_000), fake_card())
    assert row.verdict == "skipped"
    assert "outputs differ" in row.note


def test_ratios_of_steps() -> None:
    times = steps.PassTimes([3.0, 5.0, 4.0], [2.0, 2.0, 2.0], [3.9, 3.9, 3.9])
    model = Mock(weight_bytes=2_000_000, num_parameters=1000)
    row = steps._verify_row(8, 4, model, times, fake_card())
    assert (row.value, row.ms, str(row.target)) == (
        2.0,
        4.0,
        "<= 1.3",
    )  # the wall's time to that of copying the weights
    assert steps._verify_row(16, 4, model, times, fake_card()).target == at_most(1.2)
    assert steps._verify_row(4, 4, model, times, fake_card()).target == at_most(1.5)
    row = steps._overhead_row(4, times)
    assert row.value == pytest.approx(100)  # the median turn's microseconds beside the replays
    assert str(row.target) == "<= 150"
    row = steps._ssm_row(models.LLAMA_68M, model, times, steps.SSM_TARGETS[models.LLAMA_68M], fake_card())
    assert (row.value, str(row.target)) == (4.0, "<= 0.25")
    assert steps.SSM_TARGETS[models.LLAMA_160M] == at_most(0.5)


def test_copies_are_read_and_written() -> None:
    clock = Mock(ms=lambda run: 2.0)
    assert card_module._copy_bytes_per_ms(clock, torch.device("cpu")) == (1 << 16)  # 64 KiB there and back in 2 ms
