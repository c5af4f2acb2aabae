"""Addresses of services behind a router: what is taken, and what ``dns:NAME:PORT`` stands for."""

from __future__ import annotations

import pytest

from specgrove.addresses import DnsName, ReplicaAddress, checked_address, checked_service_address, service_at


@pytest.mark.parametrize(
    "address", ["dns:llm:50052", "dns:llm.specgrove.svc.cluster.local.:1", "host:1", "[::1]:65535", "unix:/a"]
)
def test_services_are_named_by_address_or_by_dns(address: str) -> None:
    assert checked_service_address(address) == address
    assert str(service_at(address)) == address


@pytest.mark.parametrize(
    "address",
    ["dns:", "dns:llm", "dns:llm:", "dns::1", "dns:llm:0", "dns:llm:65536", "dns:///llm:1", "dns:[::1]:1", "dns:a b:1"],
)
def test_a_wrong_name_is_told_with_what_is_right(address: str) -> None:
    with pytest.raises(ValueError, match=r"must be dns:NAME:PORT, with a port from 1 to 65535, got '"):
        checked_service_address(address)


def test_a_wrong_address_is_told_with_all_that_is_right() -> None:
    with pytest.raises(ValueError, match=r"must be HOST:PORT, dns:NAME:PORT or unix:/path .*, got 'nowhere'"):
        checked_service_address("nowhere")


def test_nobody_listens_at_a_name() -> None:
    with pytest.raises(ValueError, match="HOST:PORT or unix:/path"):
        checked_address("dns:llm:50052")


def test_a_replica_keeps_the_name_that_it_was_found_by() -> None:
    name = service_at("dns:llm.example:50052")
    assert name == DnsName("llm.example", 50052)
    assert isinstance(name, DnsName)
    assert name.replica_at("10.0.0.7") == ReplicaAddress("10.0.0.7:50052", "llm.example")
    assert name.replica_at("fd00::7") == ReplicaAddress("[fd00::7]:50052", "llm.example")
    assert service_at("llm.example:50052") == ReplicaAddress("llm.example:50052")
