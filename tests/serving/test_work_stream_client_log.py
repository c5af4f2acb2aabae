"""What a client of a work stream says while its peer is away."""

from __future__ import annotations

import asyncio
import logging

import pytest

from specgrove.addresses import ReplicaAddress
from specgrove.errors import UnavailableError
from specgrove.serving import work_stream_client
from specgrove.serving.status import connection_cause
from specgrove.serving.work_stream_client import WorkStreamClient, _is_told


def test_a_peer_that_is_away_is_told_of_ever_more_seldom() -> None:
    assert [attempt for attempt in range(1, 700) if _is_told(attempt)] == [20, 40, 80, 160, 320, 640]


async def test_a_cause_is_told_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    causes = [*["no such file"] * 45, *["refused"] * 120]
    has_tried_all = asyncio.Event()

    async def fail(client: object) -> None:
        if not causes:
            has_tried_all.set()
            await asyncio.Event().wait()
        raise UnavailableError(causes.pop(0))

    monkeypatch.setattr(WorkStreamClient, "_serve_one_stream", fail)
    for name in ("_MIN_BACKOFF_S", "_MAX_BACKOFF_S"):
        monkeypatch.setattr(work_stream_client, name, 0.0)
    client: WorkStreamClient[object, object] = WorkStreamClient(ReplicaAddress("peer"), lambda _: None, object)  # type: ignore[arg-type, return-value]
    with caplog.at_level(logging.INFO):
        client.start()
        await has_tried_all.wait()
        await client.close()
    assert [record.getMessage() for record in caplog.records] == [
        "peer: not connected yet: no such file", "peer: not connected yet: refused",
    ]  # fmt: skip


def test_the_cause_is_told_without_grpcs_own_steps() -> None:
    steps = "failed to connect to all addresses; last error: UNKNOWN: unix:/a: connect failed: addr: unix:/a error: "
    assert connection_cause(steps + "No such file or directory") == "No such file or directory"
    assert connection_cause(steps + "Connection refused (111)") == "Connection refused"
    assert connection_cause(steps + "Secure read failed (Socket closed)") == "Socket closed"
    handshake = (
        "Tls handshake failed: SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: x: OK"
    )
    assert connection_cause(steps + handshake) == "TLS: wrong version number"
    lookup = (
        "errors resolving nohost.invalid:1: [field:hostname lookup error:address lookup failed: Domain name not found]"
    )
    assert connection_cause(lookup) == "Domain name not found"
    assert connection_cause("the service is draining: wait") == "the service is draining: wait"
