"""An SSM that is not worth its time beside others is paused, and tried again: alone, and with the real policy in virtual time."""

from __future__ import annotations

import random

import pytest

from router.config import TreeConfig
from router.exploration import Exploration
from router.ssm_pauses import PAUSED, RETRIALS, SsmPauses, lost_without
from router.static_tree_policy import StaticTreePolicy
from specgrove.loop.drafting import waited_for
from specgrove.loop.output import CommittedToken, ProposedTree, Step, VerifiedTree
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import SsmTime, TreeShape
from specgrove.v1 import router_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.simulated_drafts import Another
from tests.router.simulated_speed import Suite, serve
from tests.router.toy_cluster import toy_cluster
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.waiting import until

TOKEN_MS = 10.0
CHAIN = TokenTree((0, 1, 2, 3), (-1, 0, 1, 2), (0.0, -0.1, -0.1, -0.1), (0, 3, 1, 3))
BOTH = ("good", "bad")


def good_alone(**options: float) -> Suite:
    suite = Suite(hit_rate=0.6, draft_ms=0.6, random=random.Random(3), **options)  # type: ignore[arg-type]
    suite.measure()
    return suite


def beside(another: Another) -> Suite:
    suite = good_alone()
    suite.another = another
    return suite


# Alone.


def step_with(num_accepted: int, sources: int, times: dict[str, float], num_steps: int = 1) -> Step:
    """A chain of two nodes that the SSMs ``sources`` drafted, of which so many were accepted."""
    tree = TokenTree((0, 1, 2), (-1, 0, 1), (0.0, -0.1, -0.1), (0, sources, sources))
    names = [name for bit, name in enumerate(BOTH) if sources >> bit & 1]
    return Step(
        tuple(CommittedToken(0) for _ in range(num_accepted + 1)), None, 2, 2, num_accepted, 1.0, 8.0, 3, 0, num_steps,
        drafted=tree, wall_ms=TOKEN_MS * (num_accepted + 1),
        verified=VerifiedTree(tree, BOTH, tuple(range(1, num_accepted + 1))),
        proposed=tuple(ProposedTree(name, tree, tree.log_probs) for name in names),
        ssm_times=tuple(SsmTime(name, ms) for name, ms in times.items()),
    )  # fmt: skip


def pauses_with_savings() -> SsmPauses:
    exploration = Exploration()
    exploration.earn(1e6, 1e6)
    return SsmPauses(exploration)


def paused_bad() -> SsmPauses:
    pauses = pauses_with_savings()
    for _ in range(40):
        pauses.observe(step_with(1, 0b01, {"good": 1.0, "bad": 2.0}))
    assert pauses.is_paused("bad")
    assert not pauses.is_paused("good")
    return pauses


def test_what_would_be_lost_without_an_ssm_begins_where_it_alone_proposed() -> None:
    verified = VerifiedTree(CHAIN, ("a", "b"), (1, 2, 3))
    assert lost_without(verified) == {"a": 2}  # the third is below the second
    assert lost_without(VerifiedTree(CHAIN, ("a", "b"), (1,))) == {}
    assert lost_without(VerifiedTree(CHAIN, ("a", "b"), ())) == {}


def test_ssms_are_waited_for_as_long_as_no_other_drafter_works_anyway() -> None:
    first, second = (SsmTime("a", 3.0, 2), SsmTime("b", 2.0)), (SsmTime("c", 4.0),)
    assert waited_for([first]) == first
    waited = {time.ssm: time.ms for time in waited_for([first, second])}
    assert waited == {"a": 1.0, "b": 1.0, "c": 0.0}


def test_of_two_that_find_the_same_one_is_kept() -> None:
    pauses = pauses_with_savings()
    for _ in range(200):
        pauses.observe(step_with(2, 0b11, {"good": 1.0, "bad": 2.0}))
    assert pauses.is_paused("bad")
    assert not pauses.is_paused("good")


def test_what_alone_finds_tokens_for_its_time_is_kept() -> None:
    pauses = pauses_with_savings()
    for place in range(400):
        pauses.observe(step_with(1, 0b10 if place % 3 == 0 else 0b01, {"good": 1.0, "bad": 2.0}))
    assert not pauses.is_paused("bad")
    assert not pauses.is_paused("good")


def test_one_draft_that_was_held_up_pauses_nothing() -> None:
    pauses = pauses_with_savings()
    for place in range(60):
        pauses.observe(step_with(1, 0b01, {"good": 0.5, "bad": 500.0 if place == 30 else 0.02}))
    assert not pauses.is_paused("bad")


def test_a_paused_ssm_is_not_named_till_steps_have_passed_and_then_in_new_requests() -> None:
    pauses = paused_bad()
    present: tuple[str, ...] = BOTH
    request = pauses.choice_for(lambda: present)
    assert request() == ("good",)
    pauses.observe(step_with(0, 0, {}, num_steps=300))
    assert pauses.choice_for(lambda: present)() == ()  # all
    assert request() == ("good",)  # it would have to read all of its text
    assert pauses.num_retrials("bad") == 1


def test_each_further_pause_is_longer_and_what_is_good_again_comes_back() -> None:
    pauses, num_steps = paused_bad(), []
    for _ in range(4):
        waited = 0
        while pauses.choice_for(lambda: BOTH)() == ("good",):
            pauses.observe(step_with(0, 0, {}, num_steps=64))
            waited += 64
        num_steps.append(waited)
        for _ in range(40):
            pauses.observe(step_with(1, 0b01, {"good": 1.0, "bad": 2.0}))
        assert pauses.is_paused("bad")
        pauses._exploration.earn(1e6, 1e6)
    assert num_steps == [256, 512, 1024, 2048]
    pauses.observe(step_with(0, 0, {}, num_steps=100_000))
    request = pauses.choice_for(lambda: BOTH)
    for _ in range(100):
        pauses.observe(step_with(2, 0b10, {"good": 1.0, "bad": 2.0}))
    assert not pauses.is_paused("bad")
    assert "bad" in (request() or BOTH)


def test_it_is_not_tried_again_while_nothing_may_be_spent() -> None:
    pauses = paused_bad()
    pauses._exploration.spend(1e9)
    pauses.observe(step_with(0, 0, {}, num_steps=100_000))
    assert pauses.choice_for(lambda: BOTH)() == ("good",)


def test_where_none_but_paused_ones_are_there_they_are_asked() -> None:
    pauses = paused_bad()
    assert pauses.choice_for(lambda: ("bad",))() == ()  # all that are there


def test_a_single_ssm_is_never_paused() -> None:
    pauses = pauses_with_savings()
    for _ in range(500):
        pauses.observe(step_with(0, 0b10, {"bad": 9.0}))
    assert not pauses.is_paused("bad")


def test_metrics_tell_who_is_paused_and_how_often_it_was_tried_again() -> None:
    pauses = paused_bad()
    values = {reading.metric: reading.value for reading in pauses.readings()}
    assert values[PAUSED] == {("bad",): 1.0, ("good",): 0.0}
    assert values[RETRIALS] == {("bad",): 0, ("good",): 0}


# Served.


async def test_a_paused_ssm_is_not_asked_nor_are_hidden_states_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = TreeShape(6, 3)
    monkeypatch.setattr("router.servicer.policy_for", lambda *_, **__: StaticTreePolicy(shape))  # toys have no times
    good, bad, llm = ToySsm(("good",)), ToySsm(("bad",)), ToyLlm()
    bad.hidden_layers, bad.hidden_window = (1,), 8
    async with toy_cluster(trees=TreeConfig()) as cluster:
        await cluster.add_llm("127.0.0.2", llm)
        await cluster.add_ssm("127.0.0.3", good)
        await cluster.add_ssm("127.0.0.4", bad)
        await until(lambda: all(cluster.takes_sessions(f"127.0.0.{number}") for number in (2, 3, 4)))
        pauses = cluster.app._servicer.pauses
        pauses._exploration.earn(1e6, 1e6)
        for _ in range(40):
            pauses.observe(step_with(1, 0b01, {"good": 1.0, "bad": 2.0}))
        assert token_ids_of(await responses_to(cluster, request_of(max_tokens=60))) == toy_output(PROMPT, 60)
        assert (len(good.asked) > 5, bad.asked, llm.opened[-1].hidden_layers) == (True, [], ())
        stats = await cluster.stub.GetStats(router_pb2.GetStatsRequest())
        assert {ssm.name: ssm.is_paused for ssm in stats.speculation.ssms} == {"good": False, "bad": True}
        request = request_of(max_tokens=60, speculation={"ssms": ["bad"]})
        assert token_ids_of(await responses_to(cluster, request)) == toy_output(PROMPT, 60)
        assert (len(bad.asked) > 5, llm.opened[-1].hidden_layers) == (True, (1,))  # who names it gets it


# With the real policy, in virtual time.


def test_a_bad_ssm_beside_a_good_one_is_paused_soon_and_costs_nothing_then() -> None:
    suite = beside(Another(hit_rate=0.05, draft_ms=0.6))
    serve(suite, num_requests=3)  # less than 256 steps
    assert suite.measurements.pauses.is_paused("another")
    assert not suite.measurements.pauses.is_paused("ssm")
    pair = serve(suite, num_requests=24)
    alone = good_alone()
    serve(alone, num_requests=2)
    assert pair.ratio(suite) > 0.98 * serve(alone, num_requests=24).ratio(alone)
    assert suite.measurements.pauses.num_retrials("another") >= 1


def test_one_that_becomes_good_again_comes_back() -> None:
    suite = beside(Another(hit_rate=0.05, draft_ms=0.6))
    serve(suite, num_requests=3)
    assert suite.measurements.pauses.is_paused("another")
    suite.another = Another(hit_rate=0.9, draft_ms=0.3)
    serve(suite, num_requests=40)
    assert not suite.measurements.pauses.is_paused("another")
    assert serve(suite, num_requests=8).ratio(suite) > 1.1 * serve(good_alone(), num_requests=8).ratio(suite)


def test_the_better_one_of_two_is_kept_where_it_came_second() -> None:
    suite = beside(Another(hit_rate=0.85, draft_ms=0.6))
    suite.hit_rate = 0.05
    serve(suite, num_requests=4)
    assert suite.measurements.pauses.is_paused("ssm")
    assert not suite.measurements.pauses.is_paused("another")
