"""Passes by captured graphs against the same kernels called one by one: the same logits and choices, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams, KnownToken, RowChoice
from specgrove.program.captured import buckets
from specgrove.program.decoder import Decoder
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.graphs import CudaGraphs, Graphs
from specgrove.program.loading import load_decoder
from specgrove.runtime.device_log_probs import log_probs_on_device
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.model_runner import ModelRunner, pass_ms
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.step_loop import FatalEngineError
from specgrove.runtime.top_k import top_k_of
from tests.devices import DEVICES
from tests.models.families import DEVICE_VARIANTS, VOCAB_SIZE, save_tiny
from tests.program.programs import some_passes
from tests.runtime.graph_runners import LIMITS, NUM_SLOTS, Both, random_pass
from tests.runtime.recorded_graphs import RecordedGraphs


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def graphs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Graphs:
    return CudaGraphs(device) if device.type == "cuda" else RecordedGraphs(monkeypatch)


@pytest.mark.parametrize("variant", ["llama", "gemma3", "opt"])
def test_passes_equal_those_without_graphs(variant: str, device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    both = Both(tmp_path, device, graphs, variant)
    rng = random.Random(variant)
    slots, contexts = rng.sample(range(NUM_SLOTS), NUM_SLOTS), {}
    for _ in range(10):
        both.check(random_pass(rng, slots, contexts))


def test_passes_beyond_the_limits_run_without_graphs(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    both = Both(tmp_path, device, graphs)
    builder = PassBuilder()
    builder.add(list(range(20)), [5] * 20, chunk_logits=True)
    both.check(builder.build())
    choices = [RowChoice(ChoiceParams(), 20)] * 7
    builder = PassBuilder()
    builder.add(list(range(20)), (), TreeRows([1] * 7, range(-1, 6), list(range(30, 37))), choices=choices)
    rows = builder.build()
    both.check(rows)  # choices may be left to whoever has the logits
    builder = PassBuilder()
    builder.add(list(range(20)), [5] * 20, TreeRows([6], [-1], [40]), choices=[RowChoice(ChoiceParams(), 21)])
    both.check(builder.build())  # too many rows, few of them asked
    both.with_graphs.start_top_k(rows, 3)
    assert torch.equal(both.with_graphs.finish_top_k(3).token_ids, top_k_of(both.without.forward(rows), 3).token_ids)


@pytest.mark.parametrize("num_rows", [4, 20])
def test_known_tokens_beside_a_choice(num_rows: int, device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    """Within the limits, and beyond them."""
    both = Both(tmp_path, device, graphs)
    builder = PassBuilder()
    known = {place: KnownToken((7 * place) % VOCAB_SIZE, 3) for place in range(num_rows)}
    tree = TreeRows([6], [-1], [40])
    builder.add(list(range(num_rows)), [5] * num_rows, tree, choices=[RowChoice(ChoiceParams(), 21)], known=known)
    rows = builder.build()
    both.check(rows)
    expected = both.without.forward(rows)
    assert expected.shape[0] == 1, "the logits of known tokens' rows are no answers"


def test_known_tokens_after_rows_that_are_no_numbers(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    rows = torch.randn(3, VOCAB_SIZE, device=device)
    rows[1, 5] = torch.nan
    with graphs.stream():
        first, second = log_probs_on_device(rows, {0: KnownToken(5, 2), 1: KnownToken(4, 2)})
    assert first is not None
    assert second is None


@pytest.mark.parametrize("k", [1, 5, 64, VOCAB_SIZE])
def test_most_probable_tokens(k: int, device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    both = Both(tmp_path, device, graphs)
    builder = PassBuilder()
    builder.add([4, 9], [3, 7], TreeRows([1, 2, 8], [-1, 0, 0], [20, 21, 22]))
    rows = builder.build()
    expected = top_k_of(both.without.forward(rows), k)
    both.with_graphs.start_top_k(rows, k)
    found = both.with_graphs.finish_top_k(k)
    assert torch.equal(found.token_ids.long(), expected.token_ids)
    assert torch.allclose(found.log_probs, expected.log_probs, atol=1e-5)


def test_rows_that_fill_a_pass_write_nothing(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    runner = Both(tmp_path, device, graphs).with_graphs
    caches = (*runner._program._caches.keys, *runner._program._caches.values)
    for cache in caches:
        cache.fill_(7.0)
    if device.type == "cuda":
        torch.cuda.synchronize()  # the runner has a stream of its own
    builder = PassBuilder()
    builder.add([11, 5, 8], [1, 2, 3])  # a bucket of 4
    runner.start(builder.build())
    assert runner.finish().logits.shape == (0, VOCAB_SIZE)
    for cache in caches:
        changed = (cache != 7.0).flatten(1).any(dim=1).nonzero().flatten().tolist()
        assert changed == [5, 8, 11]


def test_short_memory_fails_the_pass_and_nothing_else(
    device: torch.device, graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Both(tmp_path, device, graphs)
    builder = PassBuilder()
    builder.add(list(range(20)), [5] * 20, chunk_logits=True)  # takes more than any graph
    rows = builder.build()
    for error, expected in (
        (torch.OutOfMemoryError("no room"), torch.OutOfMemoryError),
        (RuntimeError("the device is lost"), FatalEngineError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(both.with_graphs._program.program, "run_alone", Mock(side_effect=error))
            with pytest.raises(expected):
                both.with_graphs.start(rows)
        both.with_graphs.discard()
    both.check(rows)


def test_all_buckets_are_captured_first(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    both = Both(tmp_path, device, graphs)
    both_sizes = set(buckets(10)) & set(buckets(5))
    total = len(buckets(10)) + len(buckets(5)) + len(both_sizes)
    assert both_sizes == {1, 2, 4}
    assert both.progress == [(done, total) for done in range(1, total + 1)]
    for _ in range(2):
        pass_ms(both.with_graphs, [1, 2, 3])
    if isinstance(graphs, RecordedGraphs):
        assert graphs.num_captured == total


def test_a_pass_takes_over_what_the_one_before_chooses(
    device: torch.device, graphs: Graphs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Both(tmp_path, device, graphs)
    builder = PassBuilder()
    builder.add([1, 2], [3, 4])
    builder.add([5], [6])
    both.check(builder.build())
    params = [ChoiceParams(), ChoiceParams(temperature=0.9, seed=5)]

    def step(number: int, token_ids: list[int]) -> PassRows:
        """The rows of two sequences, in another order each time."""
        builder = PassBuilder()
        order = [(0, [1, 2]), (1, [5])][:: 1 if number % 2 else -1]
        for (sequence, context), token_id in zip(order, token_ids, strict=True):
            slots = [*context, *range(20 + 10 * sequence, 20 + 10 * sequence + number)]
            slot = 20 + 10 * sequence + number
            choice = RowChoice(params[sequence], len(slots) + 1)
            builder.add(slots, (), TreeRows([token_id], [-1], [slot]), choices=[choice])
        return builder.build()

    expected, token_ids = [], [8, 9]
    for number in range(4):
        both.check(rows := step(number, token_ids))
        both.with_graphs.start(rows)
        token_ids = list(both.with_graphs.finish().choices)
        expected.append(token_ids)
        token_ids = token_ids[::-1]
    runner = both.with_graphs
    for max_num_rows in (10, 1):  # by graphs, and without
        monkeypatch.setattr(runner._program, "limits", replace(LIMITS, max_num_rows=max_num_rows))
        runner.start(step(0, [8, 9]))
        for number in range(1, 4):
            runner.start(step(number, [-2, -1]))
            assert runner.finish().choices == expected[number - 1]
        assert runner.finish().choices == expected[3]


def test_discarded_passes_leave_nothing(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    both = Both(tmp_path, device, graphs)
    builder = PassBuilder()
    builder.add([1, 2], [3, 4], chunk_logits=True)
    both.with_graphs.start(builder.build())
    both.with_graphs.discard()
    builder = PassBuilder()
    builder.add([5], [9], chunk_logits=True)
    both.check(builder.build())


def test_hidden_states_are_handed_out(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    """Within the limits, and beyond them. They are the caller's own: the next pass leaves them as they are."""
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)

    def telling() -> Decoder:
        store = DeviceWeights(device, has_kernels=True)
        return load_decoder(tmp_path, torch.bfloat16, store=store, keep_hidden=[1, 2])

    runner, without = GraphRunner(telling(), LIMITS, graphs), ModelRunner(telling(), NUM_SLOTS)
    assert runner.max_num_ahead == 0
    outputs = []
    for rows in some_passes():
        runner.start(rows)
        outputs.append((runner.finish().hidden, without.run(rows).hidden, rows.num_rows))
    for found, wanted, num_rows in outputs:
        assert [states.shape for states in found] == [(num_rows, without.spec.hidden_size)] * 2
        assert all(map(torch.equal, found, wanted))


def test_hidden_states_for_passes_that_ask_for_them(device: torch.device, graphs: Graphs, tmp_path: Path) -> None:
    """By the same kernels without a graph, between passes by graphs; a pass ahead leaves those of the one before as they are."""
    both = Both(tmp_path, device, graphs)
    layers = (1, both.without.spec.num_layers)
    for rows in some_passes():
        both.check(rows)
        both.check(replace(rows, hidden_layers=layers))
        both.with_graphs.start(replace(rows, hidden_layers=layers))
        found, wanted = both.with_graphs.finish().hidden, both.without.run(replace(rows, hidden_layers=layers)).hidden
        assert [states.shape[0] for states in found] == [rows.num_rows] * 2
        assert all(map(torch.equal, found, wanted))
    assert both.with_graphs.max_num_ahead > 0

    def step(token_id: int, context: list[int], slot: int) -> PassRows:
        builder = PassBuilder()
        root = TreeRows([token_id], [-1], [slot])
        builder.add(context, (), root, choices=[RowChoice(ChoiceParams(), len(context) + 1)])
        return replace(builder.build(), hidden_layers=layers)

    def steps(first: int, second: int) -> list[PassRows]:
        return [step(first, [30], 31), step(second, [30, 31], 32)]

    for rows in steps(9, -1):
        both.with_graphs.start(rows)
    ahead = [both.with_graphs.finish() for _ in range(2)]
    (chosen,) = ahead[0].choices
    for output, rows in zip(ahead, steps(9, chosen), strict=True):
        assert all(map(torch.equal, output.hidden, both.without.run(rows).hidden))


def test_only_whole_models_on_the_kernels_can_be_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny("llama", tmp_path, DEVICE_VARIANTS)
    decoder = load_decoder(tmp_path, torch.bfloat16, store=DeviceWeights(torch.device("cpu")))
    with pytest.raises(ValueError, match="runs on the kernels for GPUs"):
        GraphRunner(decoder, LIMITS, RecordedGraphs(monkeypatch))
