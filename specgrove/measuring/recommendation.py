"""What measured ways say about which SSMs to use, in figures and in words. Doing without is an answer, and not knowing is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specgrove.client.output import tokens_per_step
from specgrove.measuring.answering import acceptance_by_depth, drafted_share
from specgrove.measuring.quartiles import Quartiles
from specgrove.measuring.ways import Pair, Way

MIN_NUM_PAIRS = 4
"""Of each way; from fewer nothing is concluded."""
# Within this of each other two speeds count as the same.
_NOISE = 0.03


@dataclass(frozen=True, slots=True)
class WayResult:
    """What was measured of one way. ``acceptance`` is by depth: the share of trees with an accepted node there."""

    way: Way
    num_pairs: int
    tokens_per_s: Quartiles
    incremental_tokens_per_s: Quartiles
    speed_up: Quartiles
    tokens_per_step: float
    drafted_share: float
    acceptance: tuple[float, ...]
    is_identical: bool

    @staticmethod
    def of(way: Way, pairs: Sequence[Pair]) -> WayResult:
        """From at least one pair."""
        usages = [usage for pair in pairs for usage in pair.speculative.usages]
        return WayResult(
            way=way,
            num_pairs=len(pairs),
            tokens_per_s=Quartiles.of(pair.speculative.tokens_per_s for pair in pairs),
            incremental_tokens_per_s=Quartiles.of(pair.incremental.tokens_per_s for pair in pairs),
            speed_up=Quartiles.of(pair.speed_up for pair in pairs),
            tokens_per_step=tokens_per_step(usages),
            drafted_share=drafted_share(usages),
            acceptance=acceptance_by_depth(usages),
            is_identical=all(pair.is_identical for pair in pairs),
        )


@dataclass(frozen=True, slots=True)
class Recommendation:
    """``ssms``: those to use, none of them, or ``None`` where that can't be told. ``text`` says why."""

    ssms: tuple[str, ...] | None
    text: str


def recommend(results: Sequence[WayResult], num_at_once: int = 1) -> Recommendation:
    """Among the ways that are faster for three quarters of the prompts: the fewest SSMs that are as fast as the fastest.

    ``num_at_once`` is how many prompts one measurement takes.
    """
    if (num_pairs := min(result.num_pairs for result in results)) < MIN_NUM_PAIRS:
        measurements = "1 measurement" if num_pairs == 1 else f"{num_pairs} measurements"
        num_needed = MIN_NUM_PAIRS * len(results) * num_at_once
        needed = f"it takes {MIN_NUM_PAIRS} rounds, {num_needed} prompts"
        fewer = "" if num_at_once == 1 else ", or fewer with a smaller --at-once"
        return Recommendation(None, f"Nothing can be told from {measurements} of each way: {needed}{fewer}.")
    if not any(result.drafted_share for result in results):
        why = "the router found that drafting does not pay here, and left it off"
        return Recommendation((), f"Do without speculation here (--ssm none): {why}.")
    if (impossible := next((result for result in results if _is_impossible(result)), None)) is not None:
        return Recommendation(
            None,
            f"Nothing can be told: {impossible.way.name} had {impossible.speed_up.median:.2f}x the speed of plain decoding, and only "
            f"{impossible.tokens_per_step:.2f} tokens per step, so something else slowed this machine meanwhile. "
            "Measure on a quieter one, or with more prompts.",
        )
    paying = [result for result in results if _pays(result)]
    if not paying:
        return _without(results)
    best = max(result.speed_up.median for result in paying)
    as_fast = [result for result in paying if result.speed_up.median > best - _NOISE]
    chosen = min(as_fast, key=lambda result: (len(result.way.ssms), -result.speed_up.median))
    flags = " ".join(f"--ssm {ssm}" for ssm in chosen.way.ssms)
    others = [f"{other.way.name} {other.speed_up.median:.2f}x" for other in results if other is not chosen]
    compared = f" The others: {', '.join(others)}." if others else ""
    return Recommendation(chosen.way.ssms, f"Use {flags}: {_told(chosen)}.{compared}")


def _is_impossible(result: WayResult) -> bool:
    """A step with a tree takes no less than one without."""
    return result.speed_up.median > max(result.tokens_per_step, 1.0) * (1 + 2 * _NOISE)


def _pays(result: WayResult) -> bool:
    """What drafted nothing was faster or slower by chance."""
    return result.drafted_share > 0 and result.speed_up.low > 1 and result.speed_up.median > 1 + _NOISE


def _without(results: Sequence[WayResult]) -> Recommendation:
    fastest = max((result for result in results if result.drafted_share), key=lambda result: result.speed_up.median)
    if fastest.speed_up.median > 1 + _NOISE:
        advice = "Measure with more prompts, or on a quieter machine."
        return Recommendation(None, f"No clear gain. The best is {fastest.way.name}: {_told(fastest)}. {advice}")
    why = f"the best, {fastest.way.name}, makes {_told(fastest)}"
    return Recommendation((), f"Do without speculation here (--ssm none): {why}.")


def _told(result: WayResult) -> str:
    speed_up = result.speed_up
    return (
        f"{speed_up.median:.2f}x the speed of plain decoding, "
        f"half of the prompts between {speed_up.low:.2f}x and {speed_up.high:.2f}x"
    )
