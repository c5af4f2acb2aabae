"""What happened between two looks at a router's statistics. Pure; used by ``specgrove top``.

Invariant: what didn't happen has no mean (``None``). A router that was started anew meanwhile is counted from its start.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from specgrove.client.stats import Load, RouterStats, ServiceStats, SpeculationStats, SsmStats, Timing


@dataclass(frozen=True, slots=True)
class SsmRates:
    """One SSM's trees. ``accepted_tokens`` are those of a tree, in the mean."""

    name: str
    drafts_per_s: float
    nodes_per_draft: float | None
    accepted_tokens_per_draft: float | None
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class ServiceRates:
    """One service's passes."""

    passes_per_s: float | None
    mean_pass_ms: float | None
    rows_per_pass: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Between two looks, ``seconds`` apart. ``services`` are in the order of the statistics."""

    seconds: float
    finished_per_s: float
    failed_per_s: float
    prompt_tokens_per_s: float
    output_tokens_per_s: float
    queue_ms: float | None
    first_token_ms: float | None
    between_tokens_ms: float | None
    duration_ms: float | None
    tokens_per_step: float | None
    """Mean of all steps, with and without a tree."""
    acceptance_len: float | None
    """Tokens of a step with a tree, the verifier's own counted."""
    drafted_share: float | None
    """The share of steps that had a tree."""
    acceptance_by_position: tuple[float, ...]
    """At place d: the share of trees with a token accepted at depth d + 1."""
    speedup: float | None
    """How much faster steps with a tree were than their tokens without."""
    ssms: tuple[SsmRates, ...]
    services: tuple[ServiceRates, ...]


def rates_of(before: RouterStats | None, now: RouterStats, seconds: float) -> Rates:
    """``before`` is None for the first look: then all is since the router's start."""
    if before is None or before.uptime_s > now.uptime_s:
        before, seconds = _at_start(now), max(now.uptime_s, 1e-3)
    speculation, old = now.speculation, before.speculation
    num_drafts = speculation.num_drafts - old.num_drafts
    num_steps = speculation.num_verify_steps - old.num_verify_steps
    num_tokens = now.num_output_tokens - before.num_output_tokens
    accepted_per_draft = _ratio(speculation.num_accepted_tokens - old.num_accepted_tokens, num_drafts)
    return Rates(
        seconds=seconds,
        finished_per_s=_more(before.num_finished_by_reason, now.num_finished_by_reason) / seconds,
        failed_per_s=_more(before.num_failed_by_code, now.num_failed_by_code) / seconds,
        prompt_tokens_per_s=(now.num_prompt_tokens - before.num_prompt_tokens) / seconds,
        output_tokens_per_s=num_tokens / seconds,
        queue_ms=_mean_ms(before.queue, now.queue),
        first_token_ms=_mean_ms(before.first_token, now.first_token),
        between_tokens_ms=_mean_ms(before.between_tokens, now.between_tokens),
        duration_ms=_mean_ms(before.duration, now.duration),
        tokens_per_step=_ratio(num_tokens, num_steps),
        acceptance_len=None if accepted_per_draft is None else 1 + accepted_per_draft,
        drafted_share=_ratio(num_drafts, num_steps),
        acceptance_by_position=_by_position(old, speculation, num_drafts),
        speedup=_ratio(
            speculation.incremental_equivalent_s - old.incremental_equivalent_s,
            speculation.speculative_s - old.speculative_s,
        ),
        ssms=tuple(_ssm(old, ssm, seconds) for ssm in speculation.ssms),
        services=tuple(_service(before, service, seconds) for service in now.services),
    )


def _at_start(stats: RouterStats) -> RouterStats:
    nothing, never = SpeculationStats(0, 0, 0, 0, (), (), 0.0, 0.0, 0), Timing(0, 0.0)
    return RouterStats(stats.model, stats.version, 0.0, 0, 0, {}, {}, 0, 0, never, never, never, never, nothing, ())


def _more(before: Mapping[str, int], now: Mapping[str, int]) -> int:
    return sum(now.values()) - sum(before.values())


def _ratio(number: float, of: float) -> float | None:
    return number / of if of > 0 else None


def _mean_ms(before: Timing, now: Timing) -> float | None:
    mean_s = now.since(before).mean_s
    return None if mean_s is None else mean_s * 1e3


def _by_position(before: SpeculationStats, now: SpeculationStats, num_drafts: int) -> tuple[float, ...]:
    pairs = itertools.zip_longest(before.num_accepted_by_position, now.num_accepted_by_position, fillvalue=0)
    shares = [(new - old) / num_drafts for old, new in pairs] if num_drafts else []
    while shares and shares[-1] == 0:
        shares.pop()
    return tuple(shares)


def _ssm(before: SpeculationStats, ssm: SsmStats, seconds: float) -> SsmRates:
    was = next((other for other in before.ssms if other.name == ssm.name), SsmStats(ssm.name, 0, 0, 0))
    num_drafts = ssm.num_drafts - was.num_drafts
    return SsmRates(
        name=ssm.name,
        drafts_per_s=num_drafts / seconds,
        nodes_per_draft=_ratio(ssm.num_draft_tokens - was.num_draft_tokens, num_drafts),
        accepted_tokens_per_draft=_ratio(ssm.num_accepted_tokens - was.num_accepted_tokens, num_drafts),
        is_paused=ssm.is_paused,
    )


def _service(before: RouterStats, service: ServiceStats, seconds: float) -> ServiceRates:
    load = service.load
    if load is None:
        return ServiceRates(None, None, None)
    old = next((other.load for other in before.services if other.address == service.address), None)
    if old is None or old.num_passes > load.num_passes:
        # First seen, or started anew: how long it has run nobody knows.
        num_passes = load.num_passes
        return ServiceRates(None, _ratio(load.total_pass_ms, num_passes), _ratio(load.num_pass_rows, num_passes))
    return _between(old, load, seconds)


def _between(old: Load, load: Load, seconds: float) -> ServiceRates:
    num_passes = load.num_passes - old.num_passes
    return ServiceRates(
        num_passes / seconds,
        _ratio(load.total_pass_ms - old.total_pass_ms, num_passes),
        _ratio(load.num_pass_rows - old.num_pass_rows, num_passes),
    )
