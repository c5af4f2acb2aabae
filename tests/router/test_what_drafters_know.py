"""What SSMs want to be told of the LLM's passes: asked of the LLM service, passed on as each wants it, and nothing where nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from router.config import TreeConfig
from specgrove.loop.verifier_knowledge import DraftSampling, HiddenStates, RowTopK, joined
from specgrove.loop.works import DraftWork
from specgrove.v1 import token_tree_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_cluster import toy_cluster
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, halting_llm, toy_hidden_states
from tests.router.toy_ssm import ToySsm
from tests.router.toy_suite import toy_suite
from tests.waiting import until

LLM, A, B = "127.0.0.2", "127.0.0.3", "127.0.0.4"
NUM_TOKENS = 120


def wanting(*layers: int, window: int = 100, names: Sequence[str] = ("toy-a", "toy-b"), num_top: int = 0) -> ToySsm:
    ssm = ToySsm(names)
    ssm.hidden_layers, ssm.hidden_window, ssm.num_row_top_k = layers, window, num_top
    return ssm


def rows_told(works: Sequence[DraftWork]) -> HiddenStates:
    """What comes together of one session's works: each row once, without a gap, all that there are when the session drafts."""
    found: HiddenStates | None = None
    committed: list[int] = []
    for work in works:
        assert work.base == len(committed)
        committed.extend(work.new_token_ids)
        if (states := work.hidden_states) is not None:
            assert found is None or states.first_position == found.end_position
            found = joined((found, states))
            assert found.end_position == len(committed) - 1
    assert found is not None
    assert found == toy_hidden_states(committed[:-1], found.first_position, found.layers)
    return found


@pytest.mark.parametrize("window", [8, 100])
async def test_each_row_comes_once_with_the_next_draft(window: int) -> None:
    ssm = wanting(1, 3, window=window)
    async with toy_suite(ToyLlm(), ssm) as suite:
        tokens = token_ids_of(await responses_to(suite, request_of(max_tokens=NUM_TOKENS)))
    assert tokens == toy_output(PROMPT, NUM_TOKENS)
    states = rows_told(ssm.asked)
    assert states.layers == (1, 3)
    if window == 100:
        assert states.first_position == 0
    assert [work.hidden_states.num_tokens for work in ssm.asked if work.hidden_states is not None].count(1) > 0


async def test_where_no_ssm_wants_it_nothing_is_asked_or_sent() -> None:
    llm, ssm = ToyLlm(), ToySsm()
    async with toy_suite(llm, ssm) as suite:
        await responses_to(suite, request_of(max_tokens=20))
    assert [(each.hidden_layers, each.hidden_window, each.num_row_top_k) for each in llm.opened] == [((), 0, 0)]
    assert all(work.hidden_states is None and work.row_top_k == () for work in ssm.asked)


async def test_a_request_without_speculation_asks_nothing() -> None:
    llm = ToyLlm()
    async with toy_suite(llm, wanting(1)) as suite:
        await responses_to(suite, request_of(max_tokens=20, speculation={"disabled": True}))
    assert [each.hidden_layers for each in llm.opened] == [()]


async def test_a_router_without_trees_asks_nothing() -> None:
    """``--max-tree-nodes 0``."""
    llm, ssm = ToyLlm(), wanting(1)
    async with toy_suite(llm, ssm, trees=TreeConfig(max_num_nodes=0)) as suite:
        await responses_to(suite, request_of(max_tokens=20))
    assert [each.hidden_layers for each in llm.opened] == [()]
    assert not ssm.asked


async def test_services_get_the_layers_that_their_ssms_want() -> None:
    llm = ToyLlm()
    early, late, plain = wanting(0, names=("early",)), wanting(2, 4, names=("late",)), ToySsm(("plain",))
    async with toy_cluster() as cluster:
        for address, ssm in ((A, early), (B, late), ("127.0.0.5", plain)):
            await cluster.add_ssm(address, ssm)
        await cluster.add_llm(LLM, llm)
        await until(lambda: all(map(cluster.takes_sessions, (LLM, A, B, "127.0.0.5"))))
        tokens = token_ids_of(await responses_to(cluster, request_of(max_tokens=NUM_TOKENS)))
    assert tokens == toy_output(PROMPT, NUM_TOKENS)
    assert [each.hidden_layers for each in llm.opened] == [(0, 2, 4)]
    assert rows_told(early.asked).layers == (0,)
    assert rows_told(late.asked).layers == (2, 4)
    assert all(work.hidden_states is None for work in plain.asked)


@pytest.mark.parametrize(
    ("given", "size", "reason"),
    [
        ((), 2, "the LLM service of toy is older and can't give any"),
        ((0, 1), 2, "the LLM service of toy can give those of layers 0 to 1 only"),
        ((0, 1, 2, 3), 3, "those of toy have 2: it was made for another model"),
    ],
)
async def test_an_ssm_that_cannot_have_them_is_left_out(
    given: tuple[int, ...], size: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    llm, ssm = ToyLlm(), wanting(1, 3)
    llm.hidden_layers, ssm.hidden_size = given, size
    async with toy_suite(llm, ssm) as suite:
        tokens = token_ids_of(await responses_to(suite, request_of(max_tokens=20)))
    assert tokens == toy_output(PROMPT, 20)
    assert not ssm.asked
    assert f"SSM toy-a is not used: it needs hidden states of layers [1, 3], {size} numbers each, and" in caplog.text
    assert reason in caplog.text


async def test_most_probable_tokens_of_all_rows_come_once() -> None:
    ssm = wanting(num_top=2)
    async with toy_suite(ToyLlm(), ssm) as suite:
        tokens = token_ids_of(await responses_to(suite, request_of(max_tokens=NUM_TOKENS)))
    assert tokens == toy_output(PROMPT, NUM_TOKENS)
    rows = [row for work in ssm.asked for row in work.row_top_k]
    committed = [*PROMPT, *tokens]
    of_path = {row.position: row for row in rows if committed[row.position] == row.token_id}
    assert len(rows) > len(of_path) > NUM_TOKENS / 2  # also of nodes that were not accepted
    assert all(row == RowTopK(row.position, row.token_id, ((row.token_id, -0.5),) * 2) for row in rows)
    roots = [work.base + len(work.new_token_ids) - 2 for work in ssm.asked if work.row_top_k]
    assert roots == sorted(set(roots))


async def test_an_older_llm_service_tells_no_top_k(caplog: pytest.LogCaptureFixture) -> None:
    llm, ssm = ToyLlm(), wanting(num_top=2)
    llm.max_num_row_top_k = 0
    async with toy_suite(llm, ssm) as suite:
        await responses_to(suite, request_of(max_tokens=20))
    assert not ssm.asked
    assert "2 most probable tokens of every row, and the LLM service of toy is older and can't tell any" in caplog.text


async def test_after_the_loss_of_the_llm_service_the_rows_go_on() -> None:
    llm, ssm = halting_llm(20), wanting(1, 3)
    async with toy_suite(llm, ssm) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=NUM_TOKENS)))
        await until(lambda: len(ssm.asked) >= 5)
        await suite.restart_llm(ToyLlm())
        tokens = token_ids_of(await generating)
    assert tokens == toy_output(PROMPT, NUM_TOKENS)
    rows_told(ssm.asked)


async def test_an_ssm_service_that_comes_anew_is_told_the_window() -> None:
    llm, ssm, after = halting_llm(20), wanting(1, 3, window=8), wanting(1, 3, window=8)
    async with toy_suite(llm, ssm) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=NUM_TOKENS)))
        await until(lambda: len(ssm.asked) >= 8)
        await suite.restart_ssm(after)
        await until(lambda: all(replica.is_usable for replica in suite.app.ssms.replicas))
        llm.gate.set()
        tokens = token_ids_of(await generating)
    assert tokens == toy_output(PROMPT, NUM_TOKENS)
    begun = next(place for place, work in enumerate(after.asked) if work.base == 0)  # before that it lacked tokens
    states = rows_told(after.asked[begun:])
    first = after.asked[begun].hidden_states
    assert first is not None
    assert 8 <= first.num_tokens < 8 + 8
    assert states.num_tokens > first.num_tokens


async def test_services_are_told_how_a_session_samples() -> None:
    ssm = ToySsm()
    sampling = token_tree_pb2.SamplingParams(temperature=0.5, top_k=40, top_p=0.75, seed=2**63)
    async with toy_suite(ToyLlm(), ssm) as suite:
        await responses_to(suite, request_of(max_tokens=20, sampling=sampling))
    assert [work.sampling for work in ssm.asked if work.base == 0] == [DraftSampling(0.5, 2**63, 40, 0.75)]
