"""A trace's requests in a runner that chooses what the trace says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu.models import TINY_LLM
from benchmarks.gpu.replay import PassTree, ReplayedRunner, agree, trees_of
from benchmarks.gpu.trace import TRACE, Trace, accepted_of
from specgrove.client.output import Chunk, OutputToken
from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import ChoiceParams, RowChoice
from specgrove.kernels.trees import walk_tree
from specgrove.program.backend import PassOutput
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

GREEDY = RowChoice(ChoiceParams(), 0)

VOCAB_SIZE = 50


def tree_pass() -> PassRows:
    """A chunk whose logits nobody wants, a tree of five nodes, a root alone, and a tree of 70 nodes in a row."""
    builder = PassBuilder()
    builder.add(range(4), [1, 2, 3, 4])
    builder.add(range(4, 6), (), TreeRows([10, 11, 12, 13, 14], [-1, 0, 0, 2, 3], range(6, 11)), choices=[GREEDY] * 5)
    builder.add(range(11, 13), [7], TreeRows([20], [-1], [13]), choices=[GREEDY])
    chain = TreeRows([30 + node % 9 for node in range(70)], range(-1, 69), range(14, 84))
    builder.add([84], (), chain, choices=[GREEDY] * 70)
    return builder.build()


def test_trees_are_found_in_a_pass() -> None:
    first, root, chain = trees_of(tree_pass())
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
        self.batches: list[PassRows] = []

    def start(self, rows: PassRows) -> None:
        self.batches.append(rows)

    def finish(self) -> PassOutput:
        num_asked = len(self.batches.pop(0).asked_rows)
        if self.has_choices:
            return PassOutput([1] * num_asked, torch.zeros(0, VOCAB_SIZE))
        return PassOutput((), torch.nn.functional.one_hot(torch.ones(num_asked, dtype=torch.int64), VOCAB_SIZE).float())

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
            first, _, chain = trees_of(tree_pass())
            found += [
                len(walk_tree(tree.token_ids, tree.parents, [choices[place] for place in tree.asked]))
                for tree in (first, chain)
            ]
    assert found == [min(trace.number(place), 3 if place % 2 == 0 else 69) for place in range(8)]


def test_only_greedy_requests_are_replayed() -> None:
    builder = PassBuilder()
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
