"""Whether services that were started can be asked by now. Used by ``Suite`` and by tests that start services themselves."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.addresses import grpc_target
from specgrove.serving.address import channel_options
from specgrove.v1 import router_pb2, router_pb2_grpc

_TIMEOUT_S = 1.0


def is_serving(address: str) -> bool:
    """Whether the service at ``address`` says that it is ready."""
    with grpc.insecure_channel(grpc_target(address), options=channel_options()) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


def knows_ssms(router: str) -> bool:
    """Whether a router has been told its SSMs. It may tell nobody, for want of a key; then it counts as such."""
    with grpc.insecure_channel(grpc_target(router), options=channel_options()) as channel:
        try:
            info = router_pb2_grpc.RouterServiceStub(channel).GetModelInfo(
                router_pb2.GetModelInfoRequest(), timeout=_TIMEOUT_S
            )
        except grpc.RpcError:
            return True
    return bool(info.ssms)
