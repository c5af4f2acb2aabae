"""What a client of a work stream says while its peer is away."""

from __future__ import annotations

from specgrove.serving.status import connection_cause
from specgrove.serving.work_stream_client import _is_told


def test_a_peer_that_is_away_is_told_of_ever_more_seldom() -> None:
    assert [attempt for attempt in range(1, 700) if _is_told(attempt)] == [20, 40, 80, 160, 320, 640]


def test_the_cause_is_told_without_grpcs_own_steps() -> None:
    steps = "failed to connect to all addresses; last error: UNKNOWN: unix:/a: connect failed: addr: unix:/a error: "
    assert connection_cause(steps + "No such file or directory") == "No such file or directory"
    handshake = (
        "Tls handshake failed: SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER: x: OK"
    )
    assert connection_cause(steps + handshake) == "TLS: wrong version number"
    lookup = (
        "errors resolving nohost.invalid:1: [field:hostname lookup error:address lookup failed: Domain name not found]"
    )
    assert connection_cause(lookup) == "Domain name not found"
    assert connection_cause("the service is draining: wait") == "the service is draining: wait"
