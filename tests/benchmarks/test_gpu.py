"""The GPU benchmark's parts on tiny shapes in the emulator, the replay of a trace, and what is written. Times are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import attention, end_to_end, equality, models, report, steps
from benchmarks.gpu import card as card_module
from benchmarks.gpu.card import Card, conditions
from benchmarks.gpu.models import TINY_LLM, ModelShape, decoder_of, weight_bytes, write_folder
from benchmarks.gpu.replay import PassTree, ReplayedRunner, agree, trees_of
from benchmarks.gpu.rows import Row, Times, at_least, at_most, by_turns, row_from, skipped
from benchmarks.gpu.timed_graphs import TimedGraphs
from benchmarks.gpu.trace import TRACE, Trace, accepted_of
from specgrove import speculation
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.kernels.trees import walk_tree
from specgrove.models.forward_batch import ForwardBatch, ForwardOutput
from specgrove.models.loading import load_decoder
from specgrove.output import Chunk, OutputToken
from specgrove.request import SpeculationOptions
from specgrove.runtime.forward_batch import BatchBuilder, TreeRows
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.step_loop import FatalEngineError
from tests.devices import DEVICES

GREEDY = RowChoice(ChoiceParams(), 0)
VOCAB_SIZE = 50


@pytest.fixture(scope="module")
def card() -> Card:
    return Card.measured(torch.device("cpu"))


def tree_pass() -> ForwardBatch:
    """A chunk whose logits nobody wants, a tree of five nodes, a root alone, and a tree of 70 nodes in a row."""
    builder = BatchBuilder()
    builder.add(range(4), [1, 2, 3, 4])
    builder.add(range(4, 6), (), TreeRows([10, 11, 12, 13, 14], [-1, 0, 0, 2, 3], range(6, 11)), choices=[GREEDY] * 5)
    builder.add(range(11, 13), [7], TreeRows([20], [-1], [13]), choices=[GREEDY])
    chain = TreeRows([30 + node % 9 for node in range(70)], range(-1, 69), range(14, 84))
    builder.add([84], (), chain, choices=[GREEDY] * 70)
    return builder.build()


def test_trees_are_found_in_a_pass() -> None:
    first, root, chain = trees_of(tree_pass().rows)
    assert first == PassTree((0, 1, 2, 3, 4), (10, 11, 12, 13, 14), (-1, 0, 0, 2, 3))
    assert first.longest_path() == [0, 2, 3, 4]
    assert root == PassTree((5,), (20,), (-1,))
    assert chain.parents == tuple(range(-1, 69))
    assert chain.longest_path() == list(range(70))


@pytest.mark.parametrize(("wanted", "expected"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3)])
@pytest.mark.parametrize("choice", [0, 11, 12, 13, 14])
def test_choices_agree_for_as_many_tokens_as_wanted(wanted: int, expected: int, choice: int) -> None:
    tree = PassTree((1, 2, 3, 4, 5), (10, 11, 12, 13, 14), (-1, 0, 0, 2, 3))
    choices = [99] + [choice] * 5
    assert agree(tree, choices, wanted, VOCAB_SIZE) == expected
    accepted = walk_tree(tree.token_ids, tree.parents, choices[1:])
    assert accepted == [2, 3, 4][:expected]
    assert choices[0] == 99


class FixedRunner:
    """Chooses 1 everywhere."""

    spec = TINY_LLM.spec()
    max_num_in_flight = 1

    def __init__(self, *, has_choices: bool) -> None:
        self.has_choices = has_choices
        self.batches: list[ForwardBatch] = []

    def start(self, batch: ForwardBatch) -> None:
        self.batches.append(batch)

    def finish(self) -> ForwardOutput:
        num_asked = len(self.batches.pop(0).rows.asked_rows)
        if self.has_choices:
            return ForwardOutput(torch.zeros(0, VOCAB_SIZE), [1] * num_asked)
        return ForwardOutput(torch.nn.functional.one_hot(torch.ones(num_asked, dtype=torch.int64), VOCAB_SIZE).float())

    def discard(self) -> None:
        self.batches.clear()


@pytest.mark.parametrize("has_choices", [True, False])
def test_a_trace_is_replayed(has_choices: bool) -> None:
    trace = Trace("by hand", 5, 3, (2, 40))
    runner = ReplayedRunner(FixedRunner(has_choices=has_choices), trace)  # type: ignore[arg-type]
    assert runner.max_num_in_flight == 1
    found = []
    for _ in range(2):  # a pass may be begun before the one before it ends
        runner.start(tree_pass())
        runner.start(tree_pass())
        for _ in range(2):
            choices = runner.finish().choices
            assert choices is not None
            assert choices[5] == 1  # no tree, so nothing is rewritten
            first, _, chain = trees_of(tree_pass().rows)
            found += [
                len(walk_tree(tree.token_ids, tree.parents, [choices[place] for place in tree.asked]))
                for tree in (first, chain)
            ]
    assert found == [min(trace.number(place), 3 if place % 2 == 0 else 69) for place in range(8)]


def test_only_greedy_requests_are_replayed() -> None:
    builder = BatchBuilder()
    builder.add([0], (), TreeRows([1, 2], [-1, 0], [1, 2]), choices=[RowChoice(ChoiceParams(temperature=0.5), 0)] * 2)
    runner = ReplayedRunner(FixedRunner(has_choices=True), Trace("by hand", 5, 3, (1,)))  # type: ignore[arg-type]
    runner.start(builder.build())
    with pytest.raises(ValueError, match="greedy"):
        runner.finish()


def test_the_recorded_trace() -> None:
    trace = Trace.read(TRACE)
    assert len(trace.accepted) > 500
    assert max(trace.accepted) <= trace.max_depth
    assert 1.5 < trace.tokens_per_step < 4
    one_round = [trace.number(place) for place in range(len(trace.accepted))]
    assert sorted(one_round) == sorted(trace.accepted)


def test_a_trace_is_written_and_read(tmp_path: Path) -> None:
    tokens = [OutputToken(number, "") for number in range(6)]
    chunks = [Chunk(tuple(tokens[:size]), "") for size in (1, 3, 1, 6, 2)]
    trace = Trace("by hand", 16, 5, tuple(accepted_of(chunks)))
    assert trace.accepted == (2, 0, 5)
    trace.write(tmp_path / "trace.json")
    assert Trace.read(tmp_path / "trace.json") == trace
    (tmp_path / "empty.json").write_text('{"how": "", "max_num_nodes": 1, "max_depth": 1, "accepted": []}')
    with pytest.raises(ValueError, match="holds no trace"):
        Trace.read(tmp_path / "empty.json")


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
    assert decoder.can_be_captured
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


@pytest.mark.parametrize("device", DEVICES)
def test_parts_run_in_processes_of_their_own(device: str, tmp_path: Path) -> None:
    written = tmp_path / "new" / "rows.json", tmp_path / "rows.png"
    arguments = ["--device", device, "--tiny", "--json", str(written[0]), "--png", str(written[1])]
    assert program.main([*arguments, "--only", "verify", "ssm", "attention", "linears"]) == 0
    content = json.loads(written[0].read_text())
    assert {"card", "torch", "CUDA", "commit", "date", "copy bandwidth", "matrix rate"} <= content["conditions"].keys()
    parts = [row["part"] for row in content["rows"]]
    assert list(dict.fromkeys(parts)) == [
        "verify step", "step overhead", "SSM level", "tree attention", "linears of one 7B layer",
    ]  # fmt: skip
    assert all(row["value"] is not None for row in content["rows"])
    assert {row["verdict"] for row in content["rows"]} == {"tiny", ""}


def test_a_part_that_takes_too_long_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def start_one_that_never_ends(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", "import time; time.sleep(3600)"], **options)

    monkeypatch.setattr(program.subprocess, "Popen", start_one_that_never_ends)
    written = tmp_path / "rows.json"
    assert program.main(["--device", "cpu", "--only", "ssm", "--part-timeout-s", "0.1", "--json", str(written)]) == 1
    (row,) = json.loads(written.read_text())["rows"]
    assert (row["verdict"], row["note"]) == ("skipped", "it took more than 0 s")


def test_a_folder_is_no_file_for_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        program.main(["--device", "cpu", "--json", str(tmp_path)])
    assert "is a folder: name a file in it" in capsys.readouterr().err


def test_rows_survive_json() -> None:
    row = Row("part", "what", 1.5, "x", at_most(2), 3.0, (2.0, 4.0), 1.1, "note", is_full=False)
    assert row_from(json.loads(json.dumps(asdict(row)))) == row
    assert row_from(asdict(skipped("part", "what", "x", None, "why"))) == skipped("part", "what", "x", None, "why")


def fake_card(**fields: object) -> Card:
    """Copies a million bytes in a ms."""
    return Card(torch.device("cpu"), Mock(), **({"bytes_per_ms": 1e6, "flops_per_ms": 1e9, "is_full": True} | fields))  # type: ignore[arg-type]


def times_of(ms: float) -> Times:
    return Times((ms - 0.5, ms, ms + 0.5))


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


def test_end_to_ends_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = replace(end_to_end.Setup.of(fake_card(is_full=False)), num_rounds=3)
    mean = Trace.read(TRACE).tokens_per_step

    async def run(address: str, prompts: object, max_tokens: int, speculation: SpeculationOptions) -> end_to_end.Run:
        rate, num_steps = (100.0, 1000) if speculation.disabled else (190.0, round(1000 / per_step * mean))
        return end_to_end.Run(rate, round(1000 * mean), num_steps, 5.0, 1.0, 4.0)

    monkeypatch.setattr(end_to_end, "run", run)
    per_step = mean
    row = end_to_end._measured(1, "what", "", setup, card_is_full=True)
    assert (row.value, row.verdict) == (1.9, "met")
    per_step = mean / 2
    row = end_to_end._measured(1, "what", "", setup, card_is_full=True)
    assert row.verdict == "skipped"
    assert "too shallow for the trace" in row.note


def test_equality(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speculation, "_LONG_PROMPT_LEN", 0)  # drafters read prompts at once
    greedy, sampled = equality.rows(card)
    assert (greedy.value, sampled.value) == (1.0, 1.0)
    assert "; 0% of the tokens" not in greedy.note

    async def other(*arguments: object) -> list[tuple[list[int], int]]:
        return [([token_id], 1) for token_id in (next(numbers), 5, 6)]

    numbers = iter(range(4))
    monkeypatch.setattr(equality, "_outputs", other)
    different = list(equality.rows(card))
    assert [row.value for row in different] == [2 / 3, 2 / 3]
    assert "different: prompt 0 at token 0: 1 speculative, 0 incremental" in different[0].note
    assert not program.is_right(different)
    assert program.is_right([greedy, sampled])


def test_equality_without_drafts_shows_nothing(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    async def undrafted(*arguments: object) -> list[tuple[list[int], int]]:
        return [([1, 2], 0)] * 3

    monkeypatch.setattr(equality, "_outputs", undrafted)
    rows = list(equality.rows(card))
    assert [row.verdict for row in rows] == ["skipped", "skipped"]
    assert all("no token was drafted" in row.note for row in rows)


def test_equality_tells_what_ended_an_engine(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GraphRunner, "start", Mock(side_effect=FatalEngineError("cuda:0: the card is lost")))
    assert ["FatalEngineError: cuda:0: the card is lost" in row.note for row in equality.rows(card)] == [True, True]


def test_end_to_end(card: Card) -> None:
    found = list(end_to_end.rows(card))
    assert [row.value is not None and row.value > 0 for row in found] == [True, True], found
    assert all("REPLAYED FROM A TRACE" in row.note for row in found)
    assert str(found[0].target) == ">= 1.8"


def test_end_to_end_without_the_packages(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_to_end, "_PACKAGES", ("json", "no_such_package"))
    found = list(end_to_end.rows(card))
    assert [row.verdict for row in found] == ["skipped", "skipped"]
    assert all("no_such_package" in row.note for row in found)


def test_a_part_that_breaks_off_leaves_what_it_had(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(card: Card) -> Iterator[Row]:
        yield Row("verify step", "one", 1.0, "x")
        raise RuntimeError("the card is gone")

    monkeypatch.setitem(program.PARTS, "verify", breaks)
    first, broken = program.measured("verify", card)
    assert first.value == 1.0
    assert broken.verdict == "skipped"
    assert "the card is gone" in broken.note
    assert not program.is_right([first, broken])


def test_verdicts_are_written(card: Card, tmp_path: Path) -> None:
    rows = [
        Row("part", "good", 1.1, "x", at_most(1.2), 3.0, (2.0, 4.0), 1.1),
        Row("part", "bad", 0.5, "x", at_least(0.75)),
        Row("part", "plain", 2.0, "x"),
        skipped("part", "none", "x", at_most(1), "no room"),
    ]
    report.write_json(rows, conditions(card), tmp_path / "rows.json")
    content = json.loads((tmp_path / "rows.json").read_text())
    assert [row["verdict"] for row in content["rows"]] == ["met", "missed", "", "skipped"]
    assert [row["target"] for row in content["rows"]] == ["<= 1.2", ">= 0.75", None, "<= 1"]
    assert content["rows"][3]["note"] == "no room"
    said: list[str] = []
    report.write_chart(rows, conditions(card), tmp_path / "rows.png", said.append)
    assert (tmp_path / "rows.png").exists() == said[0].startswith("chart in")
