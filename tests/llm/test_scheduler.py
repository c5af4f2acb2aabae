"""Plans of a pass: no more rows than were bounded, trees first, and nobody is left behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llm_service.scheduler import plan_pass
from llm_service.session import PendingWork, Session
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree


def pending(num_uncached: int, num_nodes: int = 1) -> PendingWork:
    session = Session("s", SamplingParams(), prompt_len=1, token_ids=[1] * (num_uncached + 1))
    tree = TokenTree((1,) * num_nodes, tuple(range(-1, num_nodes - 1)), (0.0,) * num_nodes, (0,) * num_nodes)
    return PendingWork(0, session, tree, None)


def parts(*works: PendingWork, chunk_tokens: int = 10, tree_rows: int = 8, in_flight: int = 1) -> list[tuple[int, int]]:
    """Rows of chunk and of tree, by item."""
    planned = {id(part.pending): part for part in plan_pass(works, chunk_tokens, tree_rows, in_flight)}
    found = [planned.get(id(work)) for work in works]
    return [(0, 0) if part is None else (part.chunk_len, part.num_rows - part.chunk_len) for part in found]


def test_trees_come_up_to_a_number_of_rows() -> None:
    assert parts(pending(0, 5), pending(0, 4), pending(0, 3)) == [(0, 5), (0, 0), (0, 3)]


def test_a_tree_that_finds_no_rows_lets_its_chunk_go_ahead() -> None:
    assert parts(pending(0, 6), pending(4, 3)) == [(0, 6), (4, 0)]


def test_the_first_prompt_gets_most_and_all_get_some() -> None:
    assert parts(pending(7), pending(7), pending(7), chunk_tokens=12) == [(7, 1), (3, 0), (2, 0)]


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    assert parts(pending(1000), pending(900), pending(3), chunk_tokens=40) == [(29, 0), (8, 0), (3, 1)]
    assert parts(pending(1000), *(pending(0),) * 3) == [(10, 0), (0, 1), (0, 1), (0, 1)]


@given(st.lists(st.integers(0, 40), max_size=9), st.integers(1, 30))
def test_no_row_of_prompts_is_left_unused_or_used_twice(lens: list[int], chunk_tokens: int) -> None:
    found = [chunk for chunk, _ in parts(*map(pending, lens), chunk_tokens=chunk_tokens)]
    assert all(0 <= chunk <= length for chunk, length in zip(found, lens, strict=True))
    assert sum(found) == min(sum(lens), chunk_tokens)


def test_passes_in_flight_share_the_items() -> None:
    assert parts(pending(0), pending(0), pending(0), in_flight=2) == [(0, 1), (0, 1), (0, 0)]
    busy = pending(0)
    busy.is_in_flight = True
    assert parts(busy, pending(0), in_flight=2) == [(0, 0), (0, 1)]
