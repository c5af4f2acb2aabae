"""What routers rely on in a drafter: bases, one item at a time, sessions that open, close and are forgotten, errors by field."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from specgrove.errors import InvalidRequestError, SessionClosedError, StaleBaseError
from specgrove.loop.drafter_side import Drafter
from specgrove.loop.works import Draft, DraftWork, TreeShape
from tests.conformance.conftest import Side, held_back

PROMPT = (72, 5, 9, 72, 5, 33, 72, 5)
SHAPE = TreeShape(max_num_nodes=6, max_depth=3)


def work_of(committed: tuple[int, ...], base: int, session_id: str = "s") -> DraftWork:
    return DraftWork(session_id, base, committed[base:], SHAPE)


async def draft_of(drafter: Drafter, work: DraftWork) -> Draft:
    """What comes of it."""
    session = drafter.session(work.session_id)
    session.ask(work)
    return await session.answer()


async def test_trees_are_below_the_last_committed_token(drafting: Side[Drafter]) -> None:
    committed = PROMPT
    base = 0
    for new in ((), (9,), (), (3, 4)):
        committed += new
        draft = await draft_of(drafting.service, work_of(committed, base))
        assert draft.base == len(committed)
        assert draft.trees
        for drafted in draft.trees:
            drafted.tree.validated(vocab_size=257, max_num_nodes=SHAPE.max_num_nodes + 1)
            assert drafted.tree.token_ids[0] == committed[-1]
            assert max(drafted.tree.depths()) <= SHAPE.max_depth
        base = len(committed)


async def test_where_nothing_is_wanted_tokens_are_taken_in(drafting: Side[Drafter]) -> None:
    draft = await draft_of(drafting.service, replace(work_of(PROMPT, 0), shape=TreeShape(0, 0)))
    assert (draft.base, draft.trees) == (len(PROMPT), ())
    assert (await draft_of(drafting.service, work_of((*PROMPT, 9), len(PROMPT)))).base == len(PROMPT) + 1


@pytest.mark.parametrize("difference", [-1, 1, -4, 20])
async def test_a_wrong_base_is_told_what_is_held(drafting: Side[Drafter], difference: int) -> None:
    """Below what is held too: nothing is guessed, and nothing is lost."""
    await draft_of(drafting.service, work_of(PROMPT, 0))
    padded = (*PROMPT, *range(30))
    with pytest.raises(StaleBaseError) as caught:
        await draft_of(drafting.service, work_of(padded, len(PROMPT) + difference))
    assert caught.value.held_len == len(PROMPT)
    assert (await draft_of(drafting.service, work_of((*PROMPT, 9), len(PROMPT)))).base == len(PROMPT) + 1


async def test_an_unknown_session_holds_nothing(drafting: Side[Drafter]) -> None:
    with pytest.raises(StaleBaseError) as caught:
        await draft_of(drafting.service, work_of(PROMPT, 5, "unknown"))
    assert caught.value.held_len == 0


async def test_a_second_item_ends_the_session(drafting: Side[Drafter]) -> None:
    """Which of the two is right nobody knows: all tokens have to be sent again."""
    drafting.shut()
    first = asyncio.create_task(draft_of(drafting.service, work_of(PROMPT, 0)))
    await held_back(drafting, "s")
    with pytest.raises(StaleBaseError) as caught:
        await draft_of(drafting.service, work_of((*PROMPT, 9), len(PROMPT)))
    assert caught.value.held_len == 0
    drafting.open()
    with pytest.raises(SessionClosedError):
        await first
    assert (await draft_of(drafting.service, work_of(PROMPT, 0))).base == len(PROMPT)


async def test_opening_anew_takes_the_place_of_what_is_under_way(drafting: Side[Drafter]) -> None:
    drafting.shut()
    first = asyncio.create_task(draft_of(drafting.service, work_of(PROMPT, 0)))
    await held_back(drafting, "s")
    again = asyncio.create_task(draft_of(drafting.service, work_of(PROMPT[:3], 0)))
    await asyncio.sleep(0)
    drafting.open()
    assert (await again).base == 3
    with pytest.raises(SessionClosedError):
        await first


async def test_closing_ends_what_is_under_way_and_forgets(drafting: Side[Drafter]) -> None:
    drafting.shut()
    under_way = asyncio.create_task(draft_of(drafting.service, work_of(PROMPT, 0)))
    await held_back(drafting, "s")
    await drafting.service.session("s").close()
    drafting.open()
    with pytest.raises(SessionClosedError):
        await under_way
    with pytest.raises(StaleBaseError) as caught:
        await draft_of(drafting.service, work_of(PROMPT, 4))
    assert caught.value.held_len == 0


async def test_closing_what_is_not_there_is_no_error(drafting: Side[Drafter]) -> None:
    await drafting.service.session("never opened").close()


@pytest.mark.parametrize(
    ("field", "work"),
    [
        ("session_id", work_of(PROMPT, 0, "")),
        ("session_id", work_of(PROMPT, 0, "x" * 65)),
        ("new_token_ids", work_of((), 0)),
        ("ssms", replace(work_of(PROMPT, 0), ssms=("nobody",))),
    ],
)
async def test_a_wrong_item_names_its_field(drafting: Side[Drafter], field: str, work: DraftWork) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await draft_of(drafting.service, work)
    assert [violation.field for violation in caught.value.violations] == [field]
