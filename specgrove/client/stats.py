"""What a router has done and what it is busy with, as ``Client.stats`` tells it. ``specgrove.client.stats_wire`` makes it of protobuf.

Counts are since the router's start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """How often something was timed, and the seconds of all together."""

    num: int
    total_s: float

    @property
    def mean_s(self) -> float | None:
        """None where nothing was timed."""
        return self.total_s / self.num if self.num else None

    def since(self, before: Timing) -> Timing:
        """What came after ``before``."""
        return Timing(self.num - before.num, self.total_s - before.total_s)


@dataclass(frozen=True, slots=True)
class SsmStats:
    """One SSM's part in the trees that were verified. What several SSMs drafted counts for each."""

    name: str
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    is_paused: bool = False
    """Whether it is left out now, since what it adds is not worth its time."""
    num_retrials: int = 0
    """Times that it was tried again after a pause."""


@dataclass(frozen=True, slots=True)
class SpeculationStats:
    """Trees that were verified, and what came of them. Seconds are those of ``SpeculationStats`` in router.proto."""

    num_verify_steps: int
    num_drafts: int
    num_draft_tokens: int
    num_accepted_tokens: int
    num_accepted_by_position: tuple[int, ...]
    ssms: tuple[SsmStats, ...]
    speculative_s: float
    incremental_equivalent_s: float
    num_replays: int


@dataclass(frozen=True, slots=True)
class Load:
    """What a service is busy with; ``num_passes`` and what follows are counts since its start."""

    num_sessions: int
    num_waiting_sessions: int
    num_slots: int
    num_free_slots: int
    num_pending_items: int
    num_passes: int
    num_pass_rows: int
    total_pass_ms: float


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """A service behind the router: ``service`` is ``llm_service`` or ``ssm_service``. ``load`` is None where it doesn't answer.

    ``is_draining``: it is there and takes no new requests. ``num_requests`` are this router's there now, ``num_items`` the verifications
    or drafts that it has asked for.
    """

    service: str
    address: str
    is_connected: bool
    num_losses: int
    load: Load | None
    is_draining: bool = False
    num_requests: int = 0
    num_items: int = 0


@dataclass(frozen=True, slots=True)
class RouterStats:
    """All of it. ``model`` is empty while no LLM service was connected yet."""

    model: str
    version: str
    uptime_s: float
    num_running_requests: int
    num_waiting_requests: int
    num_finished_by_reason: Mapping[str, int]
    num_failed_by_code: Mapping[str, int]
    num_prompt_tokens: int
    num_output_tokens: int
    queue: Timing
    first_token: Timing
    between_tokens: Timing
    duration: Timing
    speculation: SpeculationStats
    services: tuple[ServiceStats, ...]
