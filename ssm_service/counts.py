"""What the pool has done since its start, by SSM. Counted by the pool, on its thread; told to metrics and ``GetLoad``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from specgrove.telemetry.metrics import Histogram, Kind, Metric, Reading
from specgrove.telemetry.metrics.histogram import PASS_BOUNDS_S

PASS_TIME = Metric(
    "specgrove_ssm_pass_duration_seconds",
    Kind.HISTOGRAM,
    "Time that one forward pass of an SSM took to begin and to end. On a GPU others may run meanwhile. Passes of one call share its time.",
    labels=("ssm",),
)
DRAFT_TIME = Metric(
    "specgrove_ssm_draft_duration_seconds",
    Kind.HISTOGRAM,
    "Time from a draft's request to the last SSM's tree, those among them that only read.",
)
DRAFTS = Metric(
    "specgrove_ssm_drafts_total",
    Kind.COUNTER,
    "Trees that an SSM drafted, those among them that no LLM service verified: they came late, or were probes.",
    labels=("ssm",),
)
DRAFTED = Metric(
    "specgrove_ssm_draft_tokens_total", Kind.COUNTER, "Nodes of those trees, roots not counted.", labels=("ssm",)
)
CACHED_TOKENS = Metric(
    "specgrove_ssm_cached_tokens_total",
    Kind.COUNTER,
    "Committed tokens that an SSM found in its prefix cache, and did not compute again.",
    labels=("ssm",),
)
COMPUTED_TOKENS = Metric(
    "specgrove_ssm_computed_tokens_total",
    Kind.COUNTER,
    "Committed tokens that an SSM computed. Drafted ones that were accepted are not among them.",
    labels=("ssm",),
)
PREFIX_EVICTIONS = Metric(
    "specgrove_ssm_prefix_cache_evicted_slots_total",
    Kind.COUNTER,
    "KV slots that an SSM's prefix cache gave away to drafts in need.",
    labels=("ssm",),
)


@dataclass(slots=True)
class ReadCounts:
    """Where one SSM's keys and values of committed tokens came from. Counted by the SSM."""

    num_cached_tokens: int = 0
    num_computed_tokens: int = 0
    num_evicted_slots: int = 0


class PoolCounts:
    """One per pool."""

    def __init__(self, ssms: Sequence[str], reading: Mapping[str, ReadCounts]) -> None:
        """``reading`` is of those with weights: they alone have passes."""
        self._reading = reading
        self.pass_s = {name: Histogram(PASS_BOUNDS_S) for name in reading}
        self.draft_s = Histogram(PASS_BOUNDS_S)
        self._num_drafts = Counter(dict.fromkeys(ssms, 0))
        self._num_drafted = Counter(dict.fromkeys(ssms, 0))

    def add_tree(self, ssm: str, num_nodes: int) -> None:
        """A tree that has nodes."""
        self._num_drafts[ssm] += 1
        self._num_drafted[ssm] += num_nodes

    @property
    def num_passes(self) -> int:
        """Passes of all SSMs."""
        return sum(times.num for times in self.pass_s.values())

    @property
    def total_pass_s(self) -> float:
        """What they took together."""
        return sum(times.total for times in self.pass_s.values())

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(PASS_TIME, {(name,): times for name, times in self.pass_s.items()})
        yield Reading(DRAFT_TIME, self.draft_s)
        yield Reading(DRAFTS, {(name,): num for name, num in self._num_drafts.items()})
        yield Reading(DRAFTED, {(name,): num for name, num in self._num_drafted.items()})
        reading = self._reading.items()
        yield Reading(CACHED_TOKENS, {(name,): counts.num_cached_tokens for name, counts in reading})
        yield Reading(COMPUTED_TOKENS, {(name,): counts.num_computed_tokens for name, counts in reading})
        yield Reading(PREFIX_EVICTIONS, {(name,): counts.num_evicted_slots for name, counts in reading})
