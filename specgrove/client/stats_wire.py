"""``GetStats``' answer to the values of ``specgrove.client.stats``. Used by the clients."""

from __future__ import annotations

from specgrove.client.stats import Load, RouterStats, ServiceStats, SpeculationStats, SsmStats, Timing
from specgrove.v1 import router_pb2, token_tree_pb2


def stats_from_proto(proto: router_pb2.GetStatsResponse) -> RouterStats:
    """The whole answer."""
    return RouterStats(
        model=proto.model,
        version=proto.version,
        uptime_s=proto.uptime_s,
        num_running_requests=proto.num_running_requests,
        num_waiting_requests=proto.num_waiting_requests,
        num_finished_by_reason=dict(proto.num_finished_by_reason),
        num_failed_by_code=dict(proto.num_failed_by_code),
        num_prompt_tokens=proto.num_prompt_tokens,
        num_output_tokens=proto.num_output_tokens,
        queue=_timing(proto.queue),
        first_token=_timing(proto.first_token),
        between_tokens=_timing(proto.between_tokens),
        duration=_timing(proto.duration),
        speculation=_speculation(proto.speculation),
        services=tuple(_service(service) for service in proto.services),
    )


def _timing(proto: router_pb2.Timing) -> Timing:
    return Timing(proto.num, proto.total_s)


def _speculation(proto: router_pb2.SpeculationStats) -> SpeculationStats:
    return SpeculationStats(
        num_verify_steps=proto.num_verify_steps,
        num_drafts=proto.num_drafts,
        num_draft_tokens=proto.num_draft_tokens,
        num_accepted_tokens=proto.num_accepted_tokens,
        num_accepted_by_position=tuple(proto.num_accepted_by_position),
        ssms=tuple(
            SsmStats(
                ssm.name,
                ssm.num_drafts,
                ssm.num_draft_tokens,
                ssm.num_accepted_tokens,
                ssm.is_paused,
                ssm.num_retrials,
            )
            for ssm in proto.ssms
        ),
        speculative_s=proto.speculative_s,
        incremental_equivalent_s=proto.incremental_equivalent_s,
        num_replays=proto.num_replays,
    )


def _service(proto: router_pb2.ServiceStats) -> ServiceStats:
    load = _load(proto.load) if proto.HasField("load") else None
    return ServiceStats(
        proto.service,
        proto.address,
        proto.is_connected,
        proto.num_losses,
        load,
        proto.is_draining,
        proto.num_requests,
        proto.num_items,
    )


def _load(proto: token_tree_pb2.Load) -> Load:
    return Load(
        num_sessions=proto.num_sessions,
        num_waiting_sessions=proto.num_waiting_sessions,
        num_slots=proto.num_slots,
        num_free_slots=proto.num_free_slots,
        num_pending_items=proto.num_pending_items,
        num_passes=proto.num_passes,
        num_pass_rows=proto.num_pass_rows,
        total_pass_ms=proto.total_pass_ms,
    )
