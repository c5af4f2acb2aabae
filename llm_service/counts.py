"""What the verifier has done since its start. Counted by the engine, on its thread; told to metrics and ``GetLoad``.

It outlives ``VerifierEngine.reset``, which forgets all else.
"""

from __future__ import annotations

from collections.abc import Iterator

from specgrove.telemetry.metrics import Histogram, Kind, Metric, Reading
from specgrove.telemetry.metrics.histogram import PASS_BOUNDS_S

PASS_TIME = Metric(
    "specgrove_llm_pass_duration_seconds",
    Kind.HISTOGRAM,
    "Time of one forward pass; where passes overlap, what it adds to the one before.",
)
PASS_ROWS = Metric(
    "specgrove_llm_pass_rows",
    Kind.HISTOGRAM,
    "Rows (tokens) of one forward pass: of prompts, and of the trees of all sessions.",
    vllm_name="vllm:iteration_tokens_total",
)
FAILED_PASSES = Metric(
    "specgrove_llm_failed_passes_total",
    Kind.COUNTER,
    "Forward passes that failed. Their items are computed again, apart from each other.",
)
PREEMPTIONS = Metric(
    "specgrove_llm_preemptions_total",
    Kind.COUNTER,
    "Times that a session gave its KV slots to another one. Its tokens are computed again when there is room.",
    vllm_name="vllm:num_preemptions_total",
)
PREFIX_QUERIES = Metric(
    "specgrove_llm_prefix_cache_queries_total",
    Kind.COUNTER,
    "Tokens that sessions were opened with: looked for in the prefix cache.",
    vllm_name="vllm:prefix_cache_queries_total",
)
PREFIX_HITS = Metric(
    "specgrove_llm_prefix_cache_hits_total",
    Kind.COUNTER,
    "Those of them that were found there, and not computed again.",
    vllm_name="vllm:prefix_cache_hits_total",
)
PREFIX_EVICTIONS = Metric(
    "specgrove_llm_prefix_cache_evicted_slots_total",
    Kind.COUNTER,
    "KV slots that the prefix cache gave away to sessions in need.",
)

LATE_MASKS = Metric(
    "specgrove_llm_late_masks_total",
    Kind.COUNTER,
    "Rows of structured outputs that were computed in vain: what may follow was not known when their pass ended.",
)

_ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class VerifierCounts:
    """One per engine."""

    def __init__(self) -> None:
        self.pass_s = Histogram(PASS_BOUNDS_S)
        self.pass_rows = Histogram(_ROW_BOUNDS)
        self.num_failed_passes = 0
        self.num_preemptions = 0
        self.num_opened_tokens = 0
        self.num_reused_tokens = 0
        self.num_evicted_slots = 0
        self.num_late_masks = 0

    def add_pass(self, seconds: float, num_rows: int) -> None:
        """A forward pass that has ended well."""
        self.pass_s.observe(seconds)
        self.pass_rows.observe(num_rows)

    @property
    def num_passes(self) -> int:
        """Forward passes."""
        return self.pass_s.num

    @property
    def num_rows(self) -> int:
        """Rows of all of them."""
        return int(self.pass_rows.total)

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(PASS_TIME, self.pass_s)
        yield Reading(PASS_ROWS, self.pass_rows)
        yield Reading(FAILED_PASSES, self.num_failed_passes)
        yield Reading(PREEMPTIONS, self.num_preemptions)
        yield Reading(PREFIX_QUERIES, self.num_opened_tokens)
        yield Reading(PREFIX_HITS, self.num_reused_tokens)
        yield Reading(PREFIX_EVICTIONS, self.num_evicted_slots)
        yield Reading(LATE_MASKS, self.num_late_masks)
