"""What the LLM service is busy with now, for ``GetLoad`` and metrics. Reads the engine's numbers from other threads than the engine's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specgrove.telemetry.metrics import Kind, Metric, Reading
from specgrove.v1 import token_tree_pb2

if TYPE_CHECKING:
    from llm_service.verifier import VerifierEngine
    from specgrove.runtime.step_loop import StepLoop

SESSIONS = Metric("specgrove_llm_sessions", Kind.GAUGE, "Sessions held.")
RUNNING = Metric(
    "specgrove_llm_sessions_running",
    Kind.GAUGE,
    "Sessions with KV slots, or admitted to them.",
    vllm_name="vllm:num_requests_running",
)
WAITING = Metric(
    "specgrove_llm_sessions_waiting",
    Kind.GAUGE,
    "Sessions that wait for KV slots.",
    vllm_name="vllm:num_requests_waiting",
)
BUSY = Metric(
    "specgrove_llm_busy_seconds_total",
    Kind.COUNTER,
    "Time that the service worked on passes, and on what goes with them. Its rate is the busy share: at 1 more work only waits longer.",
)
PENDING = Metric("specgrove_llm_pending_items", Kind.GAUGE, "Work items that wait or are being computed.")
SLOTS = Metric("specgrove_llm_kv_slots", Kind.GAUGE, "KV slots in all; each holds one token.")
CACHED_SLOTS = Metric(
    "specgrove_llm_kv_slots_cached",
    Kind.GAUGE,
    "KV slots of the prefix cache. Those that no session holds count as not in use.",
)
USED_SLOTS = Metric("specgrove_llm_kv_slots_used", Kind.GAUGE, "KV slots in use.")
KV_USAGE = Metric(
    "specgrove_llm_kv_cache_usage_ratio",
    Kind.GAUGE,
    "Share of the KV slots in use, from 0 to 1.",
    vllm_name="vllm:kv_cache_usage_perc",
)


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """Over one engine and its loop."""

    engine: VerifierEngine
    loop: StepLoop[Any, Any]
    num_slots: int

    def to_proto(self) -> token_tree_pb2.Load:
        """For ``GetLoad``."""
        engine = self.engine
        return token_tree_pb2.Load(
            num_sessions=engine.num_sessions,
            num_slots=self.num_slots,
            num_free_slots=engine.num_free_slots,
            num_pending_items=self.loop.num_pending_items,
            num_passes=engine.counts.num_passes,
            num_pass_rows=engine.counts.num_rows,
            num_waiting_sessions=engine.num_waiting_sessions,
            total_pass_ms=engine.counts.pass_s.total * 1e3,
        )

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        num_sessions, num_waiting = self.engine.num_sessions, self.engine.num_waiting_sessions
        num_used = self.num_slots - self.engine.num_free_slots
        yield Reading(SESSIONS, num_sessions)
        yield Reading(RUNNING, max(num_sessions - num_waiting, 0))
        yield Reading(WAITING, num_waiting)
        yield Reading(PENDING, self.loop.num_pending_items)
        yield Reading(BUSY, self.loop.busy_s)
        yield Reading(SLOTS, self.num_slots)
        yield Reading(USED_SLOTS, num_used)
        yield Reading(CACHED_SLOTS, self.engine.num_cached_slots)
        yield Reading(KV_USAGE, num_used / self.num_slots)
