"""The replayed services of ``benchmarks.async_drafting`` propose and accept what the trace says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.async_drafting.__main__ import TRACE
from benchmarks.async_drafting.services import accepted_nodes, delayed, replayed_ssm, right_token
from benchmarks.async_drafting.trace import NUM_CANDIDATES, Output, Trace
from specgrove.loop.works import Draft, DraftWork, TreeShape
from specgrove.v1 import token_tree_pb2
from ssm_service.config import PoolConfig
from ssm_service.pool import DrafterPool


def trace_of(ranks: list[int]) -> Trace:
    """One output; its token at place i is the SSM's candidate number ``ranks[i]``, of none where that is as many as there are."""
    token_ids = np.arange(100, 100 + len(ranks))
    candidate_ids = np.tile(np.arange(NUM_CANDIDATES), (len(ranks), 1))
    for place, rank in enumerate(ranks):
        if rank < NUM_CANDIDATES:
            candidate_ids[place, rank] = token_ids[place]
    log_probs = np.tile(np.log(0.5 ** np.arange(1, NUM_CANDIDATES + 1)), (len(ranks), 1)).astype(np.float32)
    return Trace((Output(token_ids, candidate_ids, log_probs),), {"llm": "a", "ssm": "b", "choice": "greedy"})


def test_a_trace_is_read_as_it_was_written(tmp_path: Path) -> None:
    trace = trace_of([0, 1, NUM_CANDIDATES])
    trace.write(tmp_path / "trace.npz")
    (output,) = Trace.read(tmp_path / "trace.npz").outputs
    assert np.array_equal(output.candidate_ids, trace.outputs[0].candidate_ids)
    assert [output.right_share(num) for num in (1, 2, 8)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("ranks", "num_accepted"), [([0, 0, 0, 0], 4), ([0, 1, 0, 3], 3), ([0, 0, 8, 0], 2), ([8, 0, 0, 0], 0)]
)
def test_as_much_of_a_tree_is_accepted_as_the_trace_says(ranks: list[int], num_accepted: int) -> None:
    """Of one with the best two children of each node. What is proposed below a wrong node is wrong."""
    pool = DrafterPool([replayed_ssm(trace_of(ranks), 0.0, width=2)], PoolConfig())
    pool.add(1, DraftWork("s", 0, (0,), TreeShape(64, 4, 2)))
    found: list[Draft] = []
    while pool.has_work():
        found += [result for _, result in pool.step() if isinstance(result, Draft)]
    tree = found[-1].trees[0].tree
    proto = token_tree_pb2.TokenTree(token_ids=tree.token_ids, parents=tree.parents)
    accepted = accepted_nodes(proto, 1)
    assert len(accepted) == num_accepted
    assert [tree.token_ids[node] for node in accepted] == [right_token(1 + place) for place in range(num_accepted)]


async def test_messages_on_a_long_way_do_not_wait_for_one_another() -> None:
    loop = asyncio.get_running_loop()
    sent_s: list[float] = []

    async def messages() -> AsyncIterator[int]:
        for number in range(5):
            sent_s.append(loop.time())
            yield number

    arrived = [(number, loop.time()) async for number in delayed(messages(), 0.05)]
    assert [number for number, _ in arrived] == list(range(5))
    # Loops count milliseconds.
    assert all(arrived_s - started_s > 0.049 for (_, arrived_s), started_s in zip(arrived, sent_s, strict=True))


def test_the_trace_of_the_repository_is_that_of_a_good_pair() -> None:
    trace = Trace.read(TRACE)
    assert sum(len(output.token_ids) for output in trace.outputs) > 500
    assert np.mean([output.right_share(1) for output in trace.outputs]) > 0.8
