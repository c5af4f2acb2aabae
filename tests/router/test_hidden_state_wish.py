"""Hidden states are told while something is drafted and before; where drafting doesn't pay nobody is asked for them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from router.config import TreeConfig
from router.hidden_state_wish import HiddenStateWish
from router.measurements import SessionTimes
from router.tree_policy import AdaptiveTreePolicy, policy_for
from specgrove.loop.output import Step
from specgrove.loop.request import GenerationRequest, SpeculationOptions
from specgrove.loop.works import TreeShape
from tests.router.simulated_speed import BOUNDS, Suite, serve
from tests.router.test_tree_policy import BFLOAT16, INT4, suite_of

NUM_TOLD_FIRST = 16


def always() -> bool:
    """An SSM that reads them is asked."""
    return True


class Watched(AdaptiveTreePolicy):
    """Looks that what is drafted follows hidden states that were told, without a gap; counts steps that tell them."""

    def __init__(self, suite: Suite) -> None:
        super().__init__(BOUNDS, SessionTimes(suite.measurements, ""), reads_hidden_states=always)
        self.first: TreeShape | None = None
        self.num_told, self.num_steps, self.num_that_tell, self.num_trees = 0, 0, 0, 0
        self._is_telling, self._has_begun = False, False

    def shape(self) -> TreeShape:
        shape = super().shape()
        self.first = self.first or shape
        self._is_telling = shape.wants_hidden_states
        if not self._is_telling:
            assert shape.max_num_nodes == 0
            assert shape.probe is None
            self.num_told = 0
        elif self._has_begun and (shape.max_num_nodes or shape.probe):
            assert self.num_told >= NUM_TOLD_FIRST
        else:
            assert shape.probe is None
        return shape

    def observe(self, step: Step) -> None:
        super().observe(step)
        self.num_steps += step.num_steps
        self.num_trees += step.num_drafted_nodes > 0
        if self._is_telling:
            self.num_that_tell += step.num_steps
            self.num_told += len(step.tokens) if self._has_begun else NUM_TOLD_FIRST
        self._has_begun = True


def watched(suite: Suite, num_requests: int, num_tokens: int = 128) -> list[Watched]:
    """The policies of so many requests."""
    found: list[Watched] = []

    def policies() -> Iterator[Watched]:
        while True:
            found.append(Watched(suite))
            yield found[-1]

    serve(suite, policies(), num_requests=num_requests, num_tokens=num_tokens)
    return found


@pytest.mark.parametrize("num_sessions", [1, 8])
@pytest.mark.parametrize("hit_rate", [0.02, 0.3])
def test_where_drafting_does_not_pay_they_are_seldom_told(num_sessions: int, hit_rate: float) -> None:
    suite = suite_of(INT4, num_sessions, hit_rate=hit_rate)
    suite.measure()
    watched(suite, 10)
    policies = watched(suite, 40)
    num_steps, num_that_tell = (
        sum(counts) for counts in zip(*((each.num_steps, each.num_that_tell) for each in policies), strict=True)
    )
    assert num_that_tell < 0.2 * num_steps
    assert sum(each.num_that_tell == 0 for each in policies) > len(policies) / 2


def test_where_it_pays_they_are_told_from_the_prompt_on() -> None:
    suite = suite_of(BFLOAT16, hit_rate=0.6)
    suite.measure()
    watched(suite, 10)
    policies = watched(suite, 10)
    assert all(each.first is not None and each.first.wants_hidden_states for each in policies)
    assert all(each.num_that_tell == each.num_steps for each in policies)


def test_drafting_begins_in_the_midst_of_a_request() -> None:
    """The verifier goes on by itself till enough has been told; what is drafted then is worth judging."""
    suite = suite_of(lambda rows: 10 + 0.05 * rows, hit_rate=0.02)
    suite.measure()
    watched(suite, 30)
    suite.hit_rate = 0.9
    (policy,) = watched(suite, 1, num_tokens=8000)
    assert policy.first is not None
    assert policy.first.max_num_nodes == 0
    assert policy.num_trees > 100


def test_ssms_that_read_none_wait_for_nothing() -> None:
    wish = HiddenStateWish(lambda: False)
    wish.want(is_drafting=False)
    assert not wish.is_of_use
    assert wish.num_missing == 0


def test_what_was_told_long_ago_counts_no_more() -> None:
    wish = HiddenStateWish(always)
    wish.observe(30, reads_prompt=True, is_told=True)
    assert wish.num_missing == NUM_TOLD_FIRST
    wish.want(is_drafting=False)
    wish.observe(10, reads_prompt=False, is_told=True)
    assert wish.num_missing == NUM_TOLD_FIRST - 10
    wish.observe(1, reads_prompt=True, is_told=True)
    assert wish.num_missing == 0
    wish.rest()
    assert not wish.is_on
    wish.want(is_drafting=True)
    assert wish.num_missing == NUM_TOLD_FIRST


def test_what_an_ssm_missed_while_it_was_away_is_told_anew() -> None:
    """As one whose service is started again."""
    is_there = True
    wish = HiddenStateWish(lambda: is_there)
    wish.want(is_drafting=True)
    wish.observe(1, reads_prompt=True, is_told=True)
    assert wish.num_missing == 0
    is_there = False
    wish.observe(3, reads_prompt=False, is_told=wish.is_of_use)
    is_there = True
    assert wish.num_missing == NUM_TOLD_FIRST


def test_where_drafting_stops_they_are_told_for_a_while() -> None:
    """Another session may have come, and will go."""
    wish = HiddenStateWish(always)
    wish.want(is_drafting=True)
    wish.observe(1, reads_prompt=True, is_told=True)
    for _ in range(2):
        wish.rest()
        assert wish.is_on
        wish.observe(16, reads_prompt=False, is_told=True)
    wish.rest()
    assert not wish.is_on


def test_an_ssm_that_is_paused_in_the_midst_of_a_request_is_told_nothing_more() -> None:
    suite = suite_of(BFLOAT16, hit_rate=0.6)
    suite.measure()
    is_paused, shapes = False, []

    class Told(AdaptiveTreePolicy):
        def shape(self) -> TreeShape:
            shapes.append(super().shape())
            return shapes[-1]

    policy = Told(BOUNDS, SessionTimes(suite.measurements, ""), reads_hidden_states=lambda: not is_paused)
    serve(suite, iter([policy]), num_requests=1, num_tokens=64)
    assert all(shape.wants_hidden_states for shape in shapes)
    assert sum(shape.max_num_nodes > 0 for shape in shapes) > len(shapes) / 2
    is_paused = True
    late = [policy.shape() for _ in range(16)][8:]  # a choice holds for some steps
    assert not any(shape.wants_hidden_states for shape in late)
    assert any(shape.max_num_nodes > 0 for shape in late)  # others draft


def test_a_request_without_speculation_wants_none() -> None:
    suite = suite_of(BFLOAT16, hit_rate=0.6)
    request = GenerationRequest("s", (1, 2, 3), 100, speculation=SpeculationOptions(disabled=True))
    assert not policy_for(request, TreeConfig(), suite.measurements, 63, always).shape().wants_hidden_states
    static = GenerationRequest("s", (1, 2, 3), 100, speculation=SpeculationOptions(max_num_nodes=3, max_depth=3))
    assert policy_for(static, TreeConfig(), suite.measurements, 63, always).shape().wants_hidden_states
