"""Trees that grew while the verifier worked: what hangs below the verdict is the next tree, and the loop goes on at once."""

from __future__ import annotations

import asyncio
import random

import pytest

from specgrove.errors import StaleBaseError
from specgrove.loop.drafter_side import _FIRST_NUM_STEPS_ALONE, DrafterSession
from specgrove.loop.drafting import Drafting, MergedTree
from specgrove.loop.request import GenerationRequest
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.told import Told
from specgrove.loop.verifier_knowledge import NO_WISHES
from specgrove.loop.working_ahead import WorkingAhead
from specgrove.loop.works import Draft, DraftedTree, DraftWork, TreePrices, TreeShape

PROMPT = [1, 2, 3]
SHAPE = TreeShape(max_num_nodes=4, max_depth=2)
ANSWERED = TokenTree((3, 10, 11, 12), (-1, 0, 0, 1), (0.0, -0.2, -1.7, -0.3), (0,) * 4)
# Below 12, which was drafted, the guesses 20 and 21 at the bonus token; below 11 the guess 22; beside 10 and 11 the guess 13.
GROWN = TokenTree(
    (3, 10, 11, 12, 13, 20, 21, 22, 30, 31, 32, 33),
    (-1, 0, 0, 1, 0, 3, 3, 2, 5, 6, 7, 4),
    (0.0, -0.2, -1.7, -0.3, -3.0, -0.4, -1.2, -0.5, -0.1, -0.2, -0.3, -0.4),
    (0,) * 12,
)


class Scripted(DrafterSession):
    """Answers with what it was given, when it is let."""

    def __init__(self) -> None:
        self.works: list[DraftWork] = []
        self.answers: list[Draft | Exception] = []
        self.later: list[Draft] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.is_told_to_go_ahead = True

    def session(self, session_id: str) -> Scripted:
        return self

    def is_there(self, ssms: tuple[str, ...]) -> bool:
        return True

    def ask(self, work: DraftWork) -> bool:
        self.works.append(work)
        return self.is_told_to_go_ahead

    async def answer(self) -> Draft:
        await self.may_answer.wait()
        found = self.answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def grown(self) -> list[Draft]:
        found, self.later = self.later, []
        return found

    async def close(self) -> None:
        pass


def of(tree: TokenTree, base: int, *, has_more: bool = True) -> Draft:
    return Draft(base, (DraftedTree("ssm", tree),), 1.0, has_more)


def paths(tree: TokenTree) -> set[tuple[int, ...]]:
    """Of all nodes, the root's token first: trees are merged best first."""
    found = [(tree.token_ids[0],)]
    for node in range(1, tree.num_nodes):
        found.append((*found[tree.parents[node]], tree.token_ids[node]))
    return set(found)


async def after_one_step(drafter: Scripted, grown: TokenTree = GROWN) -> Drafting:
    """The first tree has been answered, and grew while it was verified."""
    request = GenerationRequest("s", tuple(PROMPT), 100)
    drafting = Drafting(request, [drafter], 1000, Told(NO_WISHES))
    drafter.answers = [of(ANSWERED, len(PROMPT))]
    first = await drafting.ask(list(PROMPT), SHAPE).merged()
    assert (paths(first.tree), first.was_ahead) == (paths(ANSWERED), None)
    assert drafter.works[-1].ahead_ms > 0
    drafter.later = [of(ANSWERED, len(PROMPT)), of(grown, len(PROMPT))]
    return drafting


async def next_tree(new: list[int], shape: TreeShape = SHAPE, grown: TokenTree = GROWN) -> tuple[MergedTree, Scripted]:
    """The tree of the step after, without the drafter's answer; where it is waited for: what it then answers."""
    drafter = Scripted()
    drafting = await after_one_step(drafter, grown)
    drafter.may_answer.clear()
    committed = [*PROMPT, *new]
    drafter.answers = [of(TokenTree((new[-1], 99), (-1, 0), (0.0, -0.1), (0, 0)), len(committed))]
    asking = asyncio.create_task(drafting.ask(committed, shape).merged())
    await asyncio.sleep(0.01)
    drafter.may_answer.set()
    return await asking, drafter


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([10, 12], {(12,), (12, 20), (12, 21), (12, 20, 30), (12, 21, 31)}),
        ([10, 12, 20], {(20,), (20, 30)}),
        ([10, 12, 21], {(21,), (21, 31)}),
        ([11], {(11,), (11, 22), (11, 22, 32)}),
        ([11, 22], {(22,), (22, 32)}),
        ([13], {(13,), (13, 33)}),
    ],
    ids=["below a leaf", "bonus guess", "second guess", "other child", "guess below it", "guess beside the tree"],
)
async def test_a_hit_is_the_next_tree_at_once(new: list[int], expected: set[tuple[int, ...]]) -> None:
    merged, drafter = await next_tree(new)
    assert merged.was_ahead is True
    assert paths(merged.tree) == expected
    work = drafter.works[-1]  # it was told all the same
    assert (work.base, work.new_token_ids, work.ahead_ms > 0) == (len(PROMPT), tuple(new), True)


@pytest.mark.parametrize(
    "new", [[10, 99], [40], [10, 12, 22], [10, 12, 20, 30]], ids=["miss", "at once", "elsewhere", "at its end"]
)
async def test_a_miss_is_drafted_afresh(new: list[int]) -> None:
    merged, _ = await next_tree(new)
    assert merged.was_ahead is False
    assert merged.tree.token_ids == (new[-1], 99)


async def test_the_tree_is_cut_as_one_that_is_asked_for() -> None:
    """To depth, number of nodes and price."""
    assert paths((await next_tree([10], TreeShape(4, 1)))[0].tree) == {(10,), (10, 12)}
    assert paths((await next_tree([10], TreeShape(2, 4)))[0].tree) == {(10,), (10, 12), (10, 12, 20)}
    priced = TreeShape(8, 8, prices=TreePrices(min_level_prob=0.0, min_node_prob=0.5))
    assert paths((await next_tree([10], priced))[0].tree) == {(10,), (10, 12)}


async def test_a_tree_that_did_not_grow_is_a_miss_below_its_leaves() -> None:
    assert (await next_tree([10, 12], grown=ANSWERED))[0].was_ahead is False
    merged, _ = await next_tree([10], grown=ANSWERED)
    assert (merged.was_ahead, merged.tree.token_ids) == (True, (10, 12))
    assert (await next_tree([10], grown=TokenTree.of_root(3)))[0].was_ahead is False


async def test_a_hit_may_be_followed_before_the_drafter_has_answered() -> None:
    """The work is then taken to have been done: the next one's base says so. A drafter that lacks the tokens is sent them."""
    drafter = Scripted()
    drafting = await after_one_step(drafter)
    drafter.may_answer.clear()
    assert (await drafting.ask([*PROMPT, 10, 12], SHAPE).merged()).was_ahead
    drafter.answers = [StaleBaseError(1), of(TokenTree((7, 99), (-1, 0), (0.0, -0.1), (0, 0)), 6)]
    asking = asyncio.create_task(drafting.ask([*PROMPT, 10, 12, 7], SHAPE).merged())
    await asyncio.sleep(0.01)
    drafter.may_answer.set()
    merged = await asking
    assert [(work.base, work.new_token_ids) for work in drafter.works[-3:]] == [
        (3, (10, 12)),
        (5, (7,)),
        (1, (2, 3, 10, 12, 7)),
    ]
    assert (merged.was_ahead, merged.tree.token_ids) == (False, (7, 99))


async def test_a_work_that_the_drafter_is_not_told_to_go_ahead_with_is_answered_before_the_next() -> None:
    """The trees that grew before are used up. Of two works at once the service would forget the session."""
    drafter = Scripted()
    drafting = await after_one_step(drafter)
    drafter.is_told_to_go_ahead = False
    drafter.may_answer.clear()
    assert (await drafting.ask([*PROMPT, 10, 12], SHAPE).merged()).was_ahead
    drafter.answers = [
        of(TokenTree.of_root(12), 5, has_more=False),
        of(TokenTree((7, 99), (-1, 0), (0.0, -0.1), (0, 0)), 6, has_more=False),
    ]
    asking = asyncio.create_task(drafting.ask([*PROMPT, 10, 12, 7], SHAPE).merged())
    await asyncio.sleep(0)
    assert len(drafter.works) == 2
    drafter.may_answer.set()
    assert (await asking).tree.token_ids == (7, 99)
    assert (drafter.works[-1].base, drafter.works[-1].new_token_ids) == (5, (7,))


@pytest.mark.parametrize("may_go_ahead", [True, False])
async def test_waits_are_weighed_where_a_drafter_may_go_ahead(
    *, may_go_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(WorkingAhead, "note_waited", lambda ahead, ms, tree: waits.append(ms))
    drafter = Scripted()
    drafter.is_told_to_go_ahead = may_go_ahead
    drafter.answers = [of(ANSWERED, len(PROMPT), has_more=may_go_ahead)]
    drafting = Drafting(GenerationRequest("s", tuple(PROMPT), 100), [drafter], 1000, Told(NO_WISHES))
    merged = await drafting.ask(list(PROMPT), SHAPE).merged()
    assert waits == ([merged.draft_ms] if may_go_ahead else [])


async def test_of_an_ssm_that_is_not_asked_any_more_nothing_is_verified() -> None:
    drafter = Scripted()
    asked: list[tuple[str, ...]] = [(), ("other",)]
    request = GenerationRequest("s", tuple(PROMPT), 100)
    drafting = Drafting(request, [drafter], 1000, Told(NO_WISHES), choose_ssms=lambda: asked.pop(0))
    other = DraftedTree("other", TokenTree((3, 10, 40), (-1, 0, 1), (0.0, -0.1, -0.2), (0, 0, 0)))
    drafter.answers = [Draft(3, (DraftedTree("ssm", GROWN), other), 1.0, has_more=True)]
    await drafting.ask(list(PROMPT), TreeShape(12, 5)).merged()
    merged = await drafting.ask([*PROMPT, 10], TreeShape(12, 5)).merged()
    assert (merged.was_ahead, merged.ssms, merged.tree.token_ids) == (True, ("other",), (10, 40))


async def test_a_draft_below_other_tokens_is_not_gone_on_with() -> None:
    drafter = Scripted()
    drafting = Drafting(GenerationRequest("s", tuple(PROMPT), 100), [drafter], 1000, Told(NO_WISHES))
    drafter.answers = [of(ANSWERED, 2)]  # it was made from less, if by the same last token
    assert (await drafting.ask(list(PROMPT), SHAPE).merged()).tree.num_nodes == 1
    committed = [*PROMPT, 10]
    for _ in range(_FIRST_NUM_STEPS_ALONE):
        assert (await drafting.ask(committed, SHAPE).merged()).tree.num_nodes == 1
    drafter.answers = [of(TokenTree((10, 99), (-1, 0), (0.0, -0.1), (0, 0)), 4)]
    merged = await drafting.ask(committed, SHAPE).merged()
    assert (merged.was_ahead, merged.tree.token_ids) == (None, (10, 99))


async def test_what_a_drafter_lies_about_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    malformed = TokenTree((3, 10, 10), (-1, 0, 0), (0.0, -0.1, -0.2), (0, 0, 0))
    merged, _ = await next_tree([10], grown=malformed)
    assert merged.was_ahead is not True
    assert "malformed" in caplog.text
    other_root = TokenTree((4, 10, 12), (-1, 0, 1), (0.0, -0.1, -0.2), (0, 0, 0))
    assert (await next_tree([10], grown=other_root))[0].was_ahead is not True


async def test_a_drafter_that_does_not_go_ahead_is_waited_for() -> None:
    drafter = Scripted()
    drafting = Drafting(GenerationRequest("s", tuple(PROMPT), 100), [drafter], 1000, Told(NO_WISHES))
    drafter.answers = [of(ANSWERED, 3, has_more=False), of(TokenTree.of_root(12), 5, has_more=False)]
    await drafting.ask(list(PROMPT), SHAPE).merged()
    merged = await drafting.ask([*PROMPT, 10, 12], SHAPE).merged()
    assert (merged.was_ahead, merged.tree.num_nodes) == (None, 1)


async def test_a_drafter_that_hangs_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many steps are made without it. When it answers after all it is asked again."""
    monkeypatch.setattr("specgrove.loop.drafting._DRAFT_TIMEOUT_S", 0.01)
    drafter = Scripted()
    drafting = await after_one_step(drafter)
    drafter.may_answer.clear()
    committed = [*PROMPT, 40]
    for token_id in (41, 42, 43):
        assert (await drafting.ask(committed, SHAPE).merged()).tree.num_nodes == 1
        assert len(drafter.works) == 2
        committed.append(token_id)
    drafter.answers = [of(TokenTree.of_root(40), 4), of(TokenTree((43, 99), (-1, 0), (0.0, -0.1), (0, 0)), 7)]
    drafter.may_answer.set()
    await drafting.settle()
    assert (await drafting.ask(committed, SHAPE).merged()).tree.token_ids == (43, 99)
    assert drafter.works[-1].new_token_ids == (41, 42, 43)


@pytest.mark.parametrize("seed", range(20))
def test_below_is_what_hangs_there(seed: int) -> None:
    """Of random trees and every path in them: the same nodes with the same parents and probabilities; nothing for other paths."""
    rng = random.Random(seed)
    nodes = [(5, -1, 0.0)]
    taken = set()
    for _ in range(40):
        parent, token = rng.randrange(len(nodes)), rng.randrange(6)
        if (parent, token) not in taken:
            taken.add((parent, token))
            nodes.append((token, parent, -rng.random()))
    token_ids, parents, log_probs = zip(*nodes, strict=True)
    tree = TokenTree(token_ids, parents, log_probs, (0,) * len(nodes))
    paths = {0: ()}
    for node in range(1, len(nodes)):
        paths[node] = (*paths[parents[node]], token_ids[node])
    told = {path: log_probs[node] for node, path in paths.items()}
    for path in [*paths.values(), (0, 1, 2, 3, 4, 5, 0, 1), (9,)]:
        found = tree.below(path)
        if path not in told:
            assert found is None
            continue
        assert found is not None
        found.validated(vocab_size=10, max_num_nodes=64)
        found_paths = {0: path}
        for node in range(1, found.num_nodes):
            found_paths[node] = (*found_paths[found.parents[node]], found.token_ids[node])
        right = {other: log_prob for other, log_prob in told.items() if other[: len(path)] == path and other != path}
        assert {found_paths[node]: found.log_probs[node] for node in range(1, found.num_nodes)} == right


def test_a_small_tree_is_worth_it_where_waiting_takes_long() -> None:
    ahead = WorkingAhead()
    assert ahead.is_worth(TokenTree((1, 2), (-1, 0), (0.0, -2.0), (0, 0)), 4)
    assert not ahead.is_worth(TokenTree.of_root(1), 4)
    fresh = TokenTree((1, 2, 3), (-1, 0, 1), (0.0, -0.1, -0.1), (0,) * 3)
    ahead.note_waited(4.0, fresh)
    ahead.note_verified(20.0)
    assert ahead.is_worth(fresh, 4)
    assert not ahead.is_worth(TokenTree((1, 2), (-1, 0), (0.0, -2.0), (0, 0)), 4)
    assert ahead.is_worth(TokenTree((1, 2), (-1, 0), (0.0, -2.0), (0, 0)), 1)  # no more are wanted
    ahead = WorkingAhead()
    ahead.note_waited(30.0, fresh)
    ahead.note_verified(20.0)
    assert ahead.is_worth(TokenTree((1, 2), (-1, 0), (0.0, -2.0), (0, 0)), 4)
    assert ahead.ahead_ms == 40
