"""When a suite that was started may be asked: what its services say."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import MagicMock

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer

from specgrove.suite import processes
from specgrove.suite.processes import Suite, SuiteConfig
from specgrove.suite.readiness import is_serving, knows_ssms
from specgrove.suite.supervisor import Supervisor
from specgrove.v1 import router_pb2, router_pb2_grpc


class _Router(router_pb2_grpc.RouterServiceServicer):
    ssms: tuple[str, ...] | None = ()

    def GetModelInfo(  # noqa: N802
        self, request: router_pb2.GetModelInfoRequest, context: grpc.ServicerContext
    ) -> router_pb2.GetModelInfoResponse:
        if self.ssms is None:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "a key is wanted")
        return router_pb2.GetModelInfoResponse(ssms=self.ssms)


@pytest.fixture
def router(tmp_path: Path) -> Iterator[tuple[_Router, str]]:
    servicer, address = _Router(), f"unix:{tmp_path}/router.sock"
    server = grpc.server(ThreadPoolExecutor(1))
    router_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
    server.add_insecure_port(address)
    server.start()
    yield servicer, address
    server.stop(None)


@pytest.mark.parametrize(("ssms", "expected"), [((), False), (("lookup",), True), (None, True)])
def test_a_router_knows_its_ssms_or_tells_nobody(
    ssms: tuple[str, ...] | None, expected: bool, router: tuple[_Router, str]
) -> None:
    router[0].ssms = ssms
    assert knows_ssms(router[1]) is expected


def test_nobody_serves_where_nobody_listens(tmp_path: Path) -> None:
    assert not is_serving(f"unix:{tmp_path}/nobody.sock")


def test_proxies_are_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """gRPC would ask the proxy for this machine's own address, and `specgrove serve` would wait for ever."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    server = grpc.server(ThreadPoolExecutor(1))
    (servicer := _Router()).ssms = ("lookup",)
    router_pb2_grpc.add_RouterServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        assert is_serving(address)
        servicer.ssms = ()
        assert not knows_ssms(address)  # who does not answer counts as one that knows
    finally:
        server.stop(None)


def test_a_suite_is_ready_when_its_router_knows_the_ssms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the first requests would not be drafted for."""
    answers = [False, False, True]
    monkeypatch.setattr(processes, "is_serving", lambda address: True)
    monkeypatch.setattr(processes, "knows_ssms", lambda router: answers.pop(0))
    monkeypatch.setattr(processes, "Supervisor", lambda *_: MagicMock(spec=Supervisor))
    with Suite(SuiteConfig(tmp_path, ssms=("lookup",))):
        assert answers == []
    with Suite(SuiteConfig(tmp_path, ssms=())):
        pass  # nobody is asked
