"""The adaptive policy against a simulated suite: where drafting doesn't pay it costs nothing, where it does the gain is near the best."""

from __future__ import annotations

import functools
import itertools
import math
import random
from collections.abc import Callable

import pytest

from router.config import TreeConfig
from router.measurements import LevelTime, Measurements, ReplicaLoad, RunningMean
from router.tree_policy import policy_for
from specgrove.loop.output import CommittedToken, Step, VerifiedTree
from specgrove.loop.planning import TreePolicy
from specgrove.loop.request import GenerationRequest, SpeculationOptions
from specgrove.loop.row_times import RowTimes
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.works import MAX_NUM_STEPS_AHEAD, TreeShape
from tests.pairs import pairs_and
from tests.router.simulated_speed import BOUNDS, Suite, best_static, serve

PassMs = Callable[[int], float]
# Times of a step by rows, as they were measured: a small model in 16 and in 4 bits, and a large one.
BFLOAT16: PassMs = lambda rows: 9.7 * (1 if rows <= 8 else 1 + (rows - 8) * 0.07)  # noqa: E731
INT4: PassMs = lambda rows: 3.3 + 0.6 * rows  # noqa: E731
LARGE: PassMs = lambda rows: 100 + 8 * rows  # noqa: E731
PAIR_ROWS = {1: 57.0, 8: 65.0, 16: 96.0, 32: 159.0, 64: 290.0, 1024: 4600.0}
CURVES = {"bfloat16": BFLOAT16, "int4": INT4, "large": LARGE}
MANY = pytest.mark.parametrize("num_sessions", [1, 8])


def pair_ms(num_rows: int) -> float:
    """A model of 1.5 billion parameters in int8, on the cores that its drafter of 0.5 billion uses too."""
    for (low, low_ms), (high, high_ms) in itertools.pairwise(PAIR_ROWS.items()):
        if num_rows <= high:
            return low_ms + (high_ms - low_ms) * (num_rows - low) / (high - low)
    raise ValueError(f"{num_rows} rows")


def suite_of(true_ms: PassMs, num_sessions: int = 1, **facts: float) -> Suite:
    """Sessions that share a replica wait for its passes."""
    waiting_ms = 0.4 * true_ms(num_sessions) if num_sessions > 1 else 0.0
    return Suite(true_ms, num_sessions=num_sessions, tree_overhead_ms=0.7 + waiting_ms, **facts)  # type: ignore[arg-type]


def chain(*probs: float) -> TokenTree:
    nodes = range(len(probs) + 1)
    return TokenTree(tuple(nodes), tuple(n - 1 for n in nodes), (0.0, *map(math.log, probs)), (0, *[1] * len(probs)))


def error_of_a_busy_machine(rows: int) -> float:
    """The same for each number of rows, whatever was asked before."""
    return random.Random(rows).uniform(1, 2.5)


MEASURED: dict[str, Callable[[int], float] | None] = {
    "nothing": None,
    "right": lambda rows: 1.0,
    "busy": error_of_a_busy_machine,
    "dear rows": lambda rows: 3.0 if rows > 1 else 1.0,
    "free rows": lambda rows: (1 + 1 / 20) / (1 + rows / 20),
}


def after(suite: Suite, warm_up: str, num_requests: int) -> Suite:
    """With what was measured at the start, right or wrong, and some requests served."""
    error = MEASURED[warm_up]
    if error is not None:
        suite.measure(error)
    serve(suite, num_requests=num_requests)
    return suite


# Of these grids `make test` has every pair of values.
@pytest.mark.parametrize(("curve", "num_sessions", "warm_up"), pairs_and(pytest.mark.slow, CURVES, (1, 8), MEASURED))
def test_weak_drafters_cost_nothing(curve: str, num_sessions: int, warm_up: str) -> None:
    suite = after(suite_of(CURVES[curve], num_sessions, hit_rate=0.03), warm_up, 8)
    spent = serve(suite, num_requests=12)
    assert spent.ratio(suite) > 0.99
    assert spent.num_probes + spent.num_trees < 0.15 * spent.num_steps


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("warm_up", MEASURED)
def test_the_first_requests_cost_little_too(curve: str, warm_up: str) -> None:
    suite = suite_of(CURVES[curve], hit_rate=0.03)
    assert serve(after(suite, warm_up, 0), num_requests=10).ratio(suite) > 0.94


def suite_with_quick_drafter(true_ms: PassMs, hit_rate: float) -> Suite:
    return suite_of(true_ms, hit_rate=hit_rate, draft_ms=0.03 * true_ms(1))


@functools.cache
def best_with_quick_drafter(true_ms: PassMs, hit_rate: float) -> float:
    """Once for all that may have been measured."""
    return best_static(suite_with_quick_drafter(true_ms, hit_rate))


@pytest.mark.parametrize(
    ("curve", "hit_rate", "warm_up"),
    pairs_and(pytest.mark.slow, CURVES, (0.5, 0.85), ("nothing", "right", "busy", "free rows")),
)
def test_good_drafters_gain_what_there_is_to_gain(curve: str, hit_rate: float, warm_up: str) -> None:
    true_ms = CURVES[curve]
    suite = after(suite_with_quick_drafter(true_ms, hit_rate), warm_up, 15)
    assert serve(suite, num_requests=20).ratio(suite) > 0.87 * best_with_quick_drafter(true_ms, hit_rate)


@pytest.mark.parametrize("hit_rate", [0.5, 0.9])
def test_good_drafts_that_are_seldom_found_cost_nothing(hit_rate: float) -> None:
    suite = after(suite_of(INT4, hit_rate=hit_rate, draft_ms=0.3), "right", 10)
    suite.found_rate = 0.05
    serve(suite, num_requests=15)
    assert serve(suite, num_requests=15).ratio(suite) > 0.985


@pytest.mark.parametrize(
    ("warm_up", "first_draft_factor", "level_ms", "seed"),
    pairs_and(pytest.mark.slow, ("nothing", "right", "busy"), (1.0, 4.0), (15.0, 22.0), range(3)),
)
def test_a_dear_drafter_that_pays_is_soon_used(
    warm_up: str, first_draft_factor: float, level_ms: float, seed: int
) -> None:
    """It was given up for good after four trees: the first ones were slow, and time of drafts was never asked again.

    Where the first trees bring little by chance, up to two requests go by without any.
    """
    suite = suite_of(pair_ms, hit_rate=0.8, draft_ms=level_ms, read_ms=2.0, first_draft_factor=first_draft_factor)
    suite.random = random.Random(seed)
    suite = after(suite, warm_up, 0)
    assert serve(suite, num_requests=1, num_tokens=20).num_trees > 0
    nums_trees = [serve(suite, num_requests=1, num_tokens=64).num_trees for _ in range(6)]
    assert min(nums_trees[2:]) > 8
    assert serve(suite, num_requests=4).ratio(suite) > 1.15


@pytest.mark.parametrize("level_ms", [15.0, 60.0])
def test_a_dear_drafter_that_is_wrong_costs_nothing(level_ms: float) -> None:
    suite = after(suite_of(pair_ms, hit_rate=0.05, draft_ms=level_ms, read_ms=2.0), "right", 0)
    assert serve(suite, num_requests=10).ratio(suite) > 0.94
    assert serve(suite, num_requests=15).ratio(suite) > 0.985


def test_what_drafts_take_is_believed_less_the_longer_ago_it_was_seen() -> None:
    time = LevelTime()
    assert time.ms(50) < 50 * 0.2
    for _ in range(8):
        time.observe(40, 50)
    assert time.ms(50) == pytest.approx(40, rel=0.1)
    soon = time.ms(50, optimism=1.5)
    time.fade(5000)
    assert time.ms(50, optimism=1.5) < soon < time.ms(50)


def test_one_slow_draft_says_little_of_the_next_ones() -> None:
    """The very first one wakes processes up: it made a drafter look five times as dear as it was."""
    time = LevelTime()
    time.observe(20, 10)
    assert time.ms(10) < 3
    time.observe(1, 10)
    assert time.ms(10) == pytest.approx(1, rel=0.3)


def test_rows_that_were_measured_as_dear_are_tried_all_the_same() -> None:
    """An int4 pair of which step times were measured once, on a busy machine: it never drafted again."""
    suite = after(suite_of(LARGE, hit_rate=0.85, draft_ms=3.0), "dear rows", 60)
    assert serve(suite, num_requests=20).ratio(suite) > 0.8 * best_static(suite) > 2.0


@MANY
def test_drafting_starts_where_texts_become_easy_and_stops_where_they_become_hard(num_sessions: int) -> None:
    suite = after(suite_of(lambda rows: 10 + 0.05 * rows, num_sessions, hit_rate=0.02), "right", 30)
    suite.hit_rate = 0.9
    serve(suite, num_requests=30)
    assert serve(suite, num_requests=10).ratio(suite) > 1.5
    suite.hit_rate = 0.02
    serve(suite, num_requests=25)
    assert serve(suite, num_requests=10).ratio(suite) > 0.985


def test_load_comes_and_goes() -> None:
    """With eight sessions trees don't pay, with one they do, and what is learnt of either is kept."""
    suite = after(suite_of(BFLOAT16, hit_rate=0.5), "right", 10)
    for _ in range(3):
        suite.num_sessions = 8
        serve(suite, num_requests=3)
        assert serve(suite, num_requests=8).ratio(suite) > 0.98
        suite.num_sessions = 1
        serve(suite, num_requests=2)
        assert serve(suite, num_requests=8).ratio(suite) > 1.3


def test_a_machine_that_becomes_slow_for_all_rows_drafts_on() -> None:
    suite = after(suite_of(BFLOAT16, hit_rate=0.5, draft_ms=0.3), "right", 10)
    gain = serve(suite, num_requests=10).ratio(suite)
    suite.true_ms = lambda rows: 2.5 * BFLOAT16(rows)
    serve(suite, num_requests=5)
    assert serve(suite, num_requests=10).ratio(suite) > 0.9 * gain > 1.4


def test_rows_are_those_of_the_replica() -> None:
    """Of two replicas one has eight sessions, the other one: only there it pays."""
    times = {"crowded": RowTimes(), "quiet": RowTimes()}
    for replica in times.values():
        replica.learn_measured([(rows, BFLOAT16(rows)) for rows in (1, 2, 4, 8, 16, 32, 64)])
    nums_sessions = {"crowded": 16, "quiet": 1}
    measurements = Measurements(lambda session_id: ReplicaLoad(times[session_id], nums_sessions[session_id]))
    shapes = {name: policy(measurements, session_id=name).shape().max_num_nodes for name in times}
    assert shapes["crowded"] == 0
    assert shapes["quiet"] > 0


def test_an_output_too_short_to_pay_for_reading_the_prompt_has_no_drafts() -> None:
    suite = after(suite_of(BFLOAT16, hit_rate=0.5), "right", 5)
    suite.measurements.read_ms_per_token = RunningMean(0.1)
    assert suite.policy(num_prompt_tokens=10_000, max_tokens=16).shape().max_num_nodes == 0
    assert suite.policy(num_prompt_tokens=10, max_tokens=16).shape().max_num_nodes > 0


def test_without_any_times_the_first_steps_tell_them() -> None:
    suite = suite_of(BFLOAT16)
    adaptive = suite.policy()
    assert adaptive.shape() == TreeShape(0, 0, num_steps=1, wants_hidden_states=False)
    step = Step((CommittedToken(0),), None, 0, 0, 0, 0.0, 10.0, 1, 0, wall_ms=10.5)
    adaptive.observe(step)  # it read the prompt
    assert not suite.times.is_known
    adaptive.observe(step)
    assert suite.times.is_known


def test_where_nothing_is_drafted_steps_are_asked_for_as_without_drafters() -> None:
    suite = after(suite_of(INT4, 8, hit_rate=0.02), "right", 10)
    adaptive = suite.policy()
    shapes = [adaptive.shape() for _ in range(5)]
    assert {(shape.max_num_nodes, shape.num_steps) for shape in shapes} == {(0, MAX_NUM_STEPS_AHEAD)}


def test_what_requests_without_speculation_take_is_learnt_too() -> None:
    suite = suite_of(BFLOAT16)
    without = policy(suite.measurements, disabled=True)
    step = Step((CommittedToken(0),) * 4, None, 0, 0, 0, 0.0, 48.0, 1, 0, num_steps=4, wall_ms=50.0)
    for _ in range(2):
        without.observe(step)
    assert suite.times.ms(1) == pytest.approx(12.0)
    assert suite.measurements.costs(1).without_ms.mean == pytest.approx(0.5)


def policy(measurements: Measurements, session_id: str = "s", **options: object) -> TreePolicy:
    request = GenerationRequest(session_id, (1, 2, 3), 100, speculation=SpeculationOptions(**options))  # type: ignore[arg-type]
    return policy_for(request, TreeConfig(), measurements, 63)


def test_a_client_gets_what_it_asks_for_up_to_the_service_limit() -> None:
    suite = suite_of(BFLOAT16, hit_rate=0.85)
    suite.measure()

    def shape(**options: object) -> TreeShape:
        return policy(suite.measurements, **options).shape()

    assert shape(disabled=True).max_num_nodes == 0
    assert shape(max_num_nodes=5, max_depth=3, beam_width=2) == TreeShape(5, 3, 2)
    assert shape(max_num_nodes=1000, max_depth=3).max_num_nodes == 63
    assert shape(max_depth=2).max_depth <= 2
    assert 0 < shape().max_num_nodes <= BOUNDS.max_num_nodes


@pytest.mark.parametrize("is_adaptive", [True, False])
def test_without_nodes_there_are_no_trees(is_adaptive: bool) -> None:
    """``--max-tree-nodes 0``."""
    suite = suite_of(BFLOAT16, hit_rate=0.85)
    suite.measure()
    request = GenerationRequest("s", (1, 2, 3), 100)
    none = policy_for(request, TreeConfig(max_num_nodes=0, is_adaptive=is_adaptive), suite.measurements, 63)
    assert none.shape() == TreeShape(0, 0, num_steps=MAX_NUM_STEPS_AHEAD, wants_hidden_states=False)


def test_sets_of_ssms_have_counts_of_their_own() -> None:
    suite = suite_of(lambda rows: 10.0)
    suite.measure()
    bad = policy(suite.measurements, ssms=("bad",))
    tree = chain(0.02, 0.02, 0.02, 0.02)
    verified = VerifiedTree(tree, ("bad",), ())
    step = Step(
        (CommittedToken(0),),
        None,
        4,
        4,
        0,
        4.0,
        10.0,
        5,
        0,
        asked=BOUNDS,
        drafted=tree,
        verified=verified,
        wall_ms=15.0,
    )
    for _ in range(40):
        bad.shape()
        bad.observe(step)
    assert policy(suite.measurements, ssms=("bad",)).shape().max_num_nodes == 0
    assert policy(suite.measurements, ssms=("good",)).shape().max_num_nodes > 0
