"""What routers rely on in a verifier: bases, one item at a time, sessions that open, close and are forgotten, errors by field."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from specgrove.errors import InvalidRequestError, SessionClosedError, StaleBaseError
from specgrove.loop.request import SamplingParams
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifying import Verifier
from specgrove.loop.works import PromptProgress, SessionParams, Verdict, VerifyWork
from tests.conformance.conftest import Side, held_back

PROMPT = (72, 5, 9, 72, 5, 33)
PARAMS = SessionParams(SamplingParams(), len(PROMPT))


def opening(session_id: str = "s", prompt: tuple[int, ...] = PROMPT, num_steps: int = 1) -> VerifyWork:
    tree = TokenTree.of_root(prompt[-1])
    return VerifyWork(session_id, 0, prompt, tree, SessionParams(SamplingParams(), len(prompt)), num_steps=num_steps)


def going_on(committed: tuple[int, ...], base: int, session_id: str = "s") -> VerifyWork:
    return VerifyWork(session_id, base, committed[base:], TokenTree.of_root(committed[-1]))


async def answers_of(verifier: Verifier, work: VerifyWork) -> list[Verdict | PromptProgress]:
    """All that comes of it."""
    session, found = verifier.session(work.session_id), []
    await session.ask(work)
    has_more = True
    while has_more:
        found.append(await session.answer())
        has_more = not isinstance(found[-1], Verdict) or found[-1].has_more
    return found


async def all_of(verifier: Verifier, work: VerifyWork) -> list[Verdict]:
    return [answer for answer in await answers_of(verifier, work) if isinstance(answer, Verdict)]


async def ask(verifier: Verifier, work: VerifyWork) -> Verdict:
    (verdict,) = await all_of(verifier, work)
    return verdict


async def opened(verifier: Verifier, session_id: str = "s") -> tuple[int, ...]:
    """All committed tokens after a first step."""
    return PROMPT + (await ask(verifier, opening(session_id))).token_ids


async def test_verdicts_follow_what_is_committed(verifying: Side[Verifier]) -> None:
    committed = PROMPT
    work = opening()
    for _ in range(4):
        verdict = await ask(verifying.service, work)
        assert (verdict.base, verdict.has_more) == (len(committed), False)
        assert len(verdict.token_ids) == 1
        assert verdict.accepted_nodes == ()
        committed += verdict.token_ids
        work = going_on(committed, len(committed))


@pytest.mark.parametrize("start", [1, 3, len(PROMPT)])
async def test_log_probabilities_of_the_prompt_come_once_before_the_verdict(
    verifying: Side[Verifier], start: int
) -> None:
    work = opening(num_steps=2)
    session = replace(PARAMS, num_prompt_log_probs=2, prompt_log_probs_start=start)
    results = await answers_of(verifying.service, replace(work, session=session))
    progress = [result for result in results if isinstance(result, PromptProgress)]
    assert results[: len(progress)] == progress
    assert sum(len(result.token_ids) for result in results[len(progress) :] if isinstance(result, Verdict)) == 2
    places = [
        place for told in progress for place in range(told.log_probs_start, told.log_probs_start + len(told.log_probs))
    ]
    assert places == list(range(start, len(PROMPT)))
    assert all(len(entry.top) == 2 and entry.rank >= 1 for told in progress for entry in told.log_probs)


async def test_a_tree_changes_no_token(verifying: Side[Verifier]) -> None:
    verdicts = await all_of(verifying.service, opening("plain", num_steps=6))
    expected = tuple(token_id for verdict in verdicts for token_id in verdict.token_ids)
    assert [verdict.has_more for verdict in verdicts] == [True] * (len(verdicts) - 1) + [False]
    assert [verdict.base for verdict in verdicts] == [
        len(PROMPT) + sum(len(v.token_ids) for v in verdicts[:i]) for i in range(len(verdicts))
    ]
    right = TokenTree((PROMPT[-1], *expected[:5]), (-1, 0, 1, 2, 3, 4), (0.0,) + (-1.0,) * 5, (0,) * 6)
    wrong = TokenTree((PROMPT[-1], expected[0], (expected[1] + 1) % 90), (-1, 0, 1), (0.0, -1.0, -1.0), (0,) * 3)
    whole = await ask(verifying.service, replace(opening("right"), tree=right))
    assert (whole.token_ids, whole.accepted_nodes) == (expected, (1, 2, 3, 4, 5))
    part = await ask(verifying.service, replace(opening("wrong"), tree=wrong))
    assert (part.token_ids, part.accepted_nodes) == (expected[:2], (1,))


async def test_tokens_that_others_committed_are_taken_in(verifying: Side[Verifier]) -> None:
    committed = await opened(verifying.service)
    longer = (*committed, 17, 18)
    assert (await ask(verifying.service, going_on(longer, len(committed)))).base == len(longer)


@pytest.mark.parametrize("difference", [-1, 1, -4, 20])
async def test_a_wrong_base_is_told_what_is_held(verifying: Side[Verifier], difference: int) -> None:
    """Below what is held too: nothing is guessed, and nothing is lost."""
    committed = await opened(verifying.service)
    padded = (*committed, *range(30))
    with pytest.raises(StaleBaseError) as caught:
        await ask(verifying.service, going_on(padded[: len(committed) + difference], len(committed) + difference))
    assert caught.value.held_len == len(committed)
    assert (await ask(verifying.service, going_on(committed, len(committed)))).base == len(committed)


async def test_an_unknown_session_holds_nothing(verifying: Side[Verifier]) -> None:
    with pytest.raises(StaleBaseError) as caught:
        await ask(verifying.service, going_on(PROMPT, 5, "unknown"))
    assert caught.value.held_len == 0


async def test_one_item_at_a_time(verifying: Side[Verifier]) -> None:
    committed = await opened(verifying.service)
    verifying.shut()
    first = asyncio.create_task(ask(verifying.service, going_on(committed, len(committed))))
    await held_back(verifying, "s")
    await asyncio.sleep(0)
    with pytest.raises(StaleBaseError) as caught:
        await ask(verifying.service, going_on(committed, len(committed)))
    assert caught.value.held_len == 0
    verifying.open()
    assert (await first).base == len(committed)


async def test_opening_anew_takes_the_place_of_what_is_under_way(verifying: Side[Verifier]) -> None:
    verifying.shut()
    first = asyncio.create_task(ask(verifying.service, opening()))
    await held_back(verifying, "s")
    again = asyncio.create_task(ask(verifying.service, opening(prompt=PROMPT[:3])))
    await asyncio.sleep(0)
    verifying.open()
    assert (await again).base == 3
    with pytest.raises(SessionClosedError):
        await first


async def test_closing_ends_what_is_under_way_and_forgets(verifying: Side[Verifier]) -> None:
    committed = await opened(verifying.service)
    verifying.shut()
    under_way = asyncio.create_task(ask(verifying.service, going_on(committed, len(committed))))
    await held_back(verifying, "s")
    await asyncio.sleep(0)
    await verifying.service.session("s").close()
    verifying.open()
    with pytest.raises(SessionClosedError):
        await under_way
    with pytest.raises(StaleBaseError) as caught:
        await ask(verifying.service, going_on(committed, len(committed)))
    assert caught.value.held_len == 0
    assert (await opened(verifying.service)) == committed  # the same again


async def test_closing_what_is_not_there_is_no_error(verifying: Side[Verifier]) -> None:
    await verifying.service.session("never opened").close()
    await opened(verifying.service)
    for _ in range(2):
        await verifying.service.session("s").close()


async def test_a_work_that_is_to_finish_early_ends_with_its_next_verdict(verifying: Side[Verifier]) -> None:
    expected = [
        token for verdict in await all_of(verifying.service, opening("a", num_steps=9)) for token in verdict.token_ids
    ]
    verifying.shut()
    working = asyncio.create_task(all_of(verifying.service, opening(num_steps=9)))
    beside = asyncio.create_task(all_of(verifying.service, opening("beside", num_steps=9)))
    for name in ("s", "beside"):
        await held_back(verifying, name)
    for name in ("s", "s", "unknown"):
        verifying.service.session(name).finish_early()
    verifying.open()
    (verdict,) = await working
    assert (verdict.token_ids, verdict.has_more) == (tuple(expected[:1]), False)
    assert [token for verdict in await beside for token in verdict.token_ids] == expected
    # What is asked for afterwards is another work.
    verifying.service.session("s").finish_early()
    committed = (*PROMPT, *verdict.token_ids)
    verdicts = await all_of(verifying.service, replace(going_on(committed, len(committed)), num_steps=8))
    assert [token for verdict in verdicts for token in verdict.token_ids] == expected[1:]


async def test_a_root_that_is_not_the_last_token_ends_the_session(verifying: Side[Verifier]) -> None:
    committed = await opened(verifying.service)
    wrong = replace(going_on(committed, len(committed)), tree=TokenTree.of_root((committed[-1] + 1) % 90))
    with pytest.raises(InvalidRequestError) as caught:
        await ask(verifying.service, wrong)
    assert caught.value.violations[0].field == "tree.token_ids[0]"
    with pytest.raises(StaleBaseError):
        await ask(verifying.service, going_on(committed, len(committed)))


@pytest.mark.parametrize(
    ("field", "work"),
    [
        ("session_id", opening("")),
        ("session_id", opening("x" * 65)),
        ("base", replace(opening(), session=None)),
        ("base", replace(opening(), new_token_ids=())),
        ("base", replace(going_on(PROMPT, 3), session=PARAMS)),
        ("new_token_ids", opening(prompt=(*PROMPT, 70_000, 3))),
        ("tree", replace(opening(), tree=TokenTree((PROMPT[-1], 70_000), (-1, 0), (0.0, -1.0), (0, 0)))),
        ("tree", replace(opening(), tree=TokenTree((PROMPT[-1], 4), (-1, 1), (0.0, -1.0), (0, 0)))),
        ("tree", replace(opening(), tree=TokenTree((PROMPT[-1], 4, 4), (-1, 0, 0), (0.0, -1.0, -1.0), (0, 0, 0)))),
    ],
)
async def test_a_wrong_item_names_its_field(verifying: Side[Verifier], field: str, work: VerifyWork) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await ask(verifying.service, work)
    assert [violation.field for violation in caught.value.violations] == [field]
