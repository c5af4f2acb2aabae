"""The answer of ``GetStats``: the router's counters, and what the services behind it say. The same numbers as metrics have."""

from __future__ import annotations

import time

from router.admission import Admission
from router.calibration import Calibration
from router.replica_stats import ReplicaState, ReplicaStats
from router.request_counts import RequestCounts
from router.speculation_counts import SpeculationCounts
from router.ssm_pauses import SsmPauses
from specgrove.telemetry.metrics import Histogram
from specgrove.v1 import router_pb2


class RouterStats:
    """One per router; used by its servicer."""

    def __init__(
        self,
        admission: Admission,
        requests: RequestCounts,
        speculation: SpeculationCounts,
        replicas: ReplicaStats,
        calibration: Calibration,
        pauses: SsmPauses,
    ) -> None:
        self._admission = admission
        self._requests = requests
        self._speculation = speculation
        self._replicas = replicas
        self._calibration = calibration
        self._pauses = pauses
        self._started_s = time.monotonic()

    async def answer(self, model: str, version: str) -> router_pb2.GetStatsResponse:
        """Asks the services for their loads."""
        await self._replicas.refresh()
        requests = self._requests
        return router_pb2.GetStatsResponse(
            model=model,
            version=version,
            uptime_s=time.monotonic() - self._started_s,
            num_running_requests=self._admission.num_active,
            num_waiting_requests=self._admission.num_queued,
            num_finished_by_reason={reason: num for (reason,), num in requests.num_finished.items()},
            num_failed_by_code={code: num for (code,), num in requests.num_failed.items()},
            num_prompt_tokens=requests.num_prompt_tokens,
            num_output_tokens=requests.num_output_tokens,
            queue=_timing(requests.queue_s),
            first_token=_timing(requests.first_token_s),
            between_tokens=_timing(requests.between_tokens_s),
            duration=_timing(requests.duration_s),
            speculation=_speculation(self._speculation, self._calibration, self._pauses),
            services=[_service(state) for state in self._replicas.states()],
        )


def _timing(times: Histogram) -> router_pb2.Timing:
    return router_pb2.Timing(num=times.num, total_s=times.total)


def _speculation(counts: SpeculationCounts, calibration: Calibration, pauses: SsmPauses) -> router_pb2.SpeculationStats:
    return router_pb2.SpeculationStats(
        num_verify_steps=counts.num_steps,
        num_drafts=counts.num_drafts,
        num_draft_tokens=counts.num_drafted,
        num_accepted_tokens=counts.num_accepted,
        num_accepted_by_position=[counts.accepted_by_position[depth] for depth in sorted(counts.accepted_by_position)],
        ssms=[
            router_pb2.SsmStats(
                name=name,
                num_drafts=counts.drafts_by_ssm[name],
                num_draft_tokens=counts.drafted_by_ssm[name],
                num_accepted_tokens=counts.accepted_by_ssm[name],
                calibration_errors=calibration.errors(name),
                is_paused=pauses.is_paused(name),
                num_retrials=pauses.num_retrials(name),
            )
            for name in dict.fromkeys((*counts.drafts_by_ssm, *pauses.names))
        ],
        speculative_s=counts.speculative_s,
        incremental_equivalent_s=counts.incremental_s,
        num_replays=counts.num_replays,
    )


def _service(state: ReplicaState) -> router_pb2.ServiceStats:
    return router_pb2.ServiceStats(
        service=state.service,
        address=state.address,
        is_connected=state.is_connected,
        num_losses=state.num_losses,
        load=state.load,
        is_draining=state.is_draining,
        num_requests=state.num_requests,
        num_items=state.num_items,
    )
