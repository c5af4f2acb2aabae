"""A model over ranks, with made-up decoders and a network of queues: the order of work, and what is told when a rank fails.

Each rank is a thread of this process. A rank that ends takes its connections with it, as Gloo's do: whoever waits for it gets an error.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch

from specgrove.kernels.rows import PassRows
from specgrove.kernels.sampling import KnownToken
from specgrove.loop.works import LogProbs
from specgrove.models.decoder.parallel_layout import ParallelLayout
from specgrove.runtime import parallel_runner
from specgrove.runtime.parallel_runner import ParallelRunner, RankLinks, run_worker
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.step_loop import FatalEngineError
from tests.runtime.toy_ranks import VOCAB_SIZE, WAIT_S, Network, Stage, Watch


@dataclass(slots=True)
class Suite:
    """Rank 0's runner, all ranks' stages, and the threads of the others."""

    runner: ParallelRunner
    stages: list[Stage]
    network: Network
    watch: Watch
    threads: list[threading.Thread] = field(default_factory=list)
    failures: dict[int, BaseException] = field(default_factory=dict)

    def wait_for_ends(self) -> None:
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()


SuiteOf = Callable[..., Suite]


@pytest.fixture
def suite_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[SuiteOf]:
    """Starts ranks in some layout; ends them after the test."""
    suites: list[Suite] = []

    def start(tensor_size: int, num_stages: int) -> Suite:
        layout = ParallelLayout(tensor_size, num_stages)
        network, watch = Network(layout.num_ranks), Watch()
        monkeypatch.setattr(parallel_runner, "dist", network)
        stages = [Stage(layout, rank) for rank in range(layout.num_ranks)]
        groups = [SimpleNamespace(rank=rank % tensor_size, size=tensor_size) for rank in range(layout.num_ranks)]
        links = [RankLinks(layout, rank, group) for rank, group in enumerate(groups)]
        suite = Suite(ParallelRunner(stages[0], links[0], watch), stages, network, watch)

        def run(rank: int) -> None:
            network.become(rank)
            try:
                run_worker(stages[rank], links[rank])
            except BaseException as error:
                suite.failures[rank] = error
            finally:
                network.leave()

        for rank in range(1, layout.num_ranks):
            suite.threads.append(threading.Thread(target=run, args=(rank,), daemon=True))
            suite.threads[-1].start()
        suites.append(suite)
        return suite

    yield start
    for suite in suites:
        suite.network.leave()
        suite.wait_for_ends()


def batch_of(*token_ids: int, is_asked: bool = True) -> PassRows:
    """A tree of these tokens, which is asked for logits; or a prompt's chunk."""
    builder = PassBuilder()
    slots = range(len(token_ids))
    if is_asked:
        builder.add([], (), TreeRows(token_ids, range(-1, len(token_ids) - 1), slots))
    else:
        builder.add(slots, token_ids)
    return builder.build()


def logits_of(runner: ParallelRunner) -> list[int]:
    """Of the oldest pass, a number for each asked row."""
    output = runner.finish()
    assert output.choices == ()
    assert output.logits.shape[1] == VOCAB_SIZE
    return [int(row[0]) for row in output.logits]


@pytest.mark.parametrize(
    ("tensor_size", "num_stages", "ran_by"), [(2, 1, 1), (1, 2, 11), (1, 3, 111), (2, 2, 11), (3, 2, 11)]
)
def test_every_rank_runs_its_stage_of_every_pass(
    suite_of: SuiteOf, tensor_size: int, num_stages: int, ran_by: int
) -> None:
    suite = suite_of(tensor_size, num_stages)
    for token_ids in ((5, 6), (7,), (8, 9, 3)):
        suite.runner.start(batch_of(*token_ids))
        assert logits_of(suite.runner) == [token_id * 1000 + ran_by for token_id in token_ids]
    suite.runner.stop_workers()
    suite.wait_for_ends()
    assert not suite.failures
    assert [stage.seen for stage in suite.stages] == [[[5, 6], [7], [8, 9, 3]]] * len(suite.stages)
    assert suite.network.num_unread == 0


@pytest.mark.parametrize(("tensor_size", "num_stages"), [(2, 1), (1, 2), (2, 3)])
def test_rank_0_hands_out_hidden_states_of_its_own_stage(suite_of: SuiteOf, tensor_size: int, num_stages: int) -> None:
    """Those that go to the next stage aside; other ranks are not told that somebody asks."""
    suite = suite_of(tensor_size, num_stages)
    for layers in ((), (0, 1), (1,)):
        suite.runner.start(replace(batch_of(5, 6), hidden_layers=layers))
        output = suite.runner.finish()
        assert [states.flatten().tolist() for states in output.hidden] == [
            [5001 - each, 6001 - each] for each in layers
        ]
        assert [int(row[0]) for row in output.logits] == [int("1" * num_stages) + 5000, int("1" * num_stages) + 6000]


def test_as_many_passes_are_under_way_as_there_are_stages_and_end_in_order(suite_of: SuiteOf) -> None:
    suite = suite_of(1, 3)
    assert suite.runner.max_num_in_flight == 3
    passes = [(number, number + 1) for number in range(40)]
    found = []
    for index, token_ids in enumerate(passes):
        suite.runner.start(batch_of(*token_ids))
        if index >= 2:
            found.append(logits_of(suite.runner))
    found += [logits_of(suite.runner) for _ in range(2)]
    assert found == [[token_id * 1000 + 111 for token_id in token_ids] for token_ids in passes]


@pytest.mark.parametrize(("tensor_size", "num_stages"), [(2, 1), (1, 2), (2, 2)])
def test_passes_that_are_asked_for_nothing_send_nothing_back(
    suite_of: SuiteOf, tensor_size: int, num_stages: int
) -> None:
    """Chunks of prompts, among passes that have logits."""
    suite = suite_of(tensor_size, num_stages)
    ran_by = 11 if num_stages == 2 else 1
    for first in (1, 3, 5):
        suite.runner.start(batch_of(first, first + 1, is_asked=False))
        suite.runner.start(batch_of(first + 50))
        assert logits_of(suite.runner) == []
        assert logits_of(suite.runner) == [(first + 50) * 1000 + ran_by]
    suite.runner.stop_workers()
    suite.wait_for_ends()
    assert suite.network.num_unread == 0


@pytest.mark.parametrize(("tensor_size", "num_stages"), [(2, 1), (1, 2), (2, 2)])
def test_known_tokens_have_log_probabilities_instead_of_logits(
    suite_of: SuiteOf, tensor_size: int, num_stages: int
) -> None:
    suite = suite_of(tensor_size, num_stages)
    builder = PassBuilder()
    known = {0: KnownToken(2, 1), 2: KnownToken(0, 0)}
    builder.add(range(3), [5, 6, 7], TreeRows([9], [-1], [3]), known=known)
    suite.runner.start(builder.build())
    output = suite.runner.finish()
    assert [int(row[0]) // 1000 for row in output.logits] == [9]  # the tree's row alone
    # All ids are equally probable to these stages: the lower one comes first.
    quarter = pytest.approx(-math.log(4), abs=1e-3)
    assert output.log_probs == [LogProbs(quarter, 3, ((0, quarter),)), LogProbs(quarter, 1)]  # type: ignore[arg-type]


@pytest.mark.parametrize("failing_rank", [1, 2])
def test_a_rank_that_fails_in_mid_pass_is_a_failure_of_the_engine(suite_of: SuiteOf, failing_rank: int) -> None:
    """The passes before it are finished all the same; its own and those behind it are lost."""
    suite = suite_of(1, 3)
    suite.stages[failing_rank].fails_at = {2}
    for first in (1, 2, 3):
        suite.runner.start(batch_of(first))
    assert logits_of(suite.runner) == [1111]
    with pytest.raises(
        FatalEngineError, match="a pass over the ranks failed: RuntimeError: Connection closed by peer 2"
    ):
        suite.runner.finish()
    assert not suite.watch.is_in_pass
    assert isinstance(suite.failures[failing_rank], ArithmeticError)
    if failing_rank == 1:
        suite.threads[1].join(WAIT_S)
        assert str(suite.failures[2]) == "Connection closed by peer 1"


def test_a_pass_that_fails_for_a_rank_that_is_gone_names_it(suite_of: SuiteOf) -> None:
    """What its neighbour says then is that a connection was closed."""
    suite = suite_of(1, 3)
    suite.stages[1].fails_at = {2}
    suite.watch.lost = "rank 1 (stage 1, tensor rank 0) is gone"
    suite.runner.start(batch_of(2))
    with pytest.raises(
        FatalEngineError, match=r"a pass over the ranks failed: rank 1 \(stage 1, tensor rank 0\) is gone"
    ):
        suite.runner.finish()


def test_a_failure_of_rank_0_is_told_by_its_name(suite_of: SuiteOf) -> None:
    """The others have the rows already, and nobody knows where they stand."""
    suite = suite_of(1, 2)
    suite.stages[0].fails_at = {2}
    suite.runner.start(batch_of(1))
    with pytest.raises(FatalEngineError, match="a pass over the ranks failed: ArithmeticError: token 2 is too much"):
        suite.runner.start(batch_of(2))
    assert not suite.watch.is_in_pass


def test_what_is_under_way_is_waited_for_when_it_is_discarded(suite_of: SuiteOf) -> None:
    """So that no later pass is given its logits."""
    suite = suite_of(1, 3)
    for first in (1, 2, 3):
        suite.runner.start(batch_of(first, is_asked=first != 2))
    suite.runner.discard()
    suite.runner.start(batch_of(4))
    assert logits_of(suite.runner) == [4111]
    suite.runner.discard()  # nothing


def test_ranks_that_are_stopped_end_after_the_passes_under_way(suite_of: SuiteOf) -> None:
    suite = suite_of(2, 2)
    for first in (1, 2):
        suite.runner.start(batch_of(first))
    suite.runner.stop_workers()
    suite.wait_for_ends()
    assert not suite.failures
    assert [stage.seen for stage in suite.stages] == [[[1], [2]]] * 4
    assert [logits_of(suite.runner) for _ in range(2)] == [[1011], [2011]]


def test_only_the_times_of_passes_count_towards_its_limit(suite_of: SuiteOf) -> None:
    suite = suite_of(1, 2)
    assert not suite.watch.is_in_pass
    suite.runner.start(batch_of(1))
    assert (suite.watch.num_passes, suite.watch.is_in_pass) == (1, False)
    logits_of(suite.runner)
    assert (suite.watch.num_passes, suite.watch.is_in_pass) == (2, False)


def test_messages_are_kept_until_they_have_left_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = ParallelLayout(1, 2)
    waited_for: list[int] = []
    monkeypatch.setattr(
        parallel_runner,
        "dist",
        SimpleNamespace(isend=lambda message, rank: SimpleNamespace(wait=lambda: waited_for.append(int(message)))),
    )
    outbox = parallel_runner._Outbox(layout)
    for number in range(100):
        outbox.send(torch.tensor(number), 1)
    num_kept = 100 - len(waited_for)
    assert waited_for == list(range(len(waited_for)))  # the oldest, which have been received long since
    # What two passes under way and a third that is being sent have on their way: a pass is two messages to each rank, and hidden states.
    assert num_kept == 3 * 5
