"""What the SSM service is busy with now, for ``GetLoad`` and metrics. Reads the pool's numbers from other threads than the pool's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specgrove.telemetry.metrics import Kind, Metric, Reading
from specgrove.v1 import token_tree_pb2

if TYPE_CHECKING:
    from specgrove.runtime.step_loop import StepLoop
    from ssm_service.pool import DrafterPool

SESSIONS = Metric("specgrove_ssm_sessions", Kind.GAUGE, "Sessions held.")
BUSY = Metric(
    "specgrove_ssm_busy_seconds_total",
    Kind.COUNTER,
    "Time that the service worked on drafts, and on what goes with them. Its rate is the busy share: at 1 more work only waits longer.",
)
PENDING = Metric("specgrove_ssm_pending_items", Kind.GAUGE, "Work items that wait or are being computed.")
SLOTS = Metric("specgrove_ssm_kv_slots", Kind.GAUGE, "KV slots of an SSM; each holds one token.", labels=("ssm",))
USED_SLOTS = Metric("specgrove_ssm_kv_slots_used", Kind.GAUGE, "KV slots of an SSM in use.", labels=("ssm",))
CACHED_SLOTS = Metric(
    "specgrove_ssm_kv_slots_cached",
    Kind.GAUGE,
    "KV slots of an SSM's prefix cache. Those that no session holds count as not in use.",
    labels=("ssm",),
)


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """Over one pool and its loop."""

    pool: DrafterPool
    loop: StepLoop[Any, Any]

    def to_proto(self) -> token_tree_pb2.Load:
        """For ``GetLoad``: all SSMs together."""
        pool = self.pool
        return token_tree_pb2.Load(
            num_sessions=pool.num_sessions,
            num_slots=pool.ssms.num_slots,
            num_free_slots=pool.ssms.num_free_slots,
            num_pending_items=self.loop.num_pending_items,
            num_passes=pool.counts.num_passes,
            num_pass_rows=pool.ssms.num_rows,
            total_pass_ms=pool.counts.total_pass_s * 1e3,
        )

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        slots = self.pool.ssms.slots_by_ssm()
        yield Reading(SESSIONS, self.pool.num_sessions)
        yield Reading(PENDING, self.loop.num_pending_items)
        yield Reading(BUSY, self.loop.busy_s)
        yield Reading(SLOTS, {(name,): found.num_slots for name, found in slots.items()})
        yield Reading(USED_SLOTS, {(name,): found.num_slots - found.num_free for name, found in slots.items()})
        yield Reading(CACHED_SLOTS, {(name,): found.num_cached for name, found in slots.items()})
