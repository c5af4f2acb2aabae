"""What an address looks like, of a server and for clients."""

from __future__ import annotations

import pytest

from specgrove.addresses import (
    checked_address,
    checked_http_address,
    checked_service_address,
    checked_target,
    grpc_target,
)
from specgrove.settings.router import ROUTER

WRONG_ADDRESSES = [
    "",
    "50051",
    "host",
    "host:",
    "host:99999",
    ":1",
    "unix:",
    "host:port",
    "::1",
    "::1:50051",
    "host:²",
    "host:\u0665",
]
WRONG_ADDRESSES += [
    "http://host:1",
    "host:1/",
    " host:1",
    "host:1 ",
    "[::1]",
    "[::1]:",
    "a b:1",
    "10.0.0.1:1:1",
    "host:-1",
]


@pytest.mark.parametrize("address", WRONG_ADDRESSES)
def test_addresses_are_checked(address: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        checked_address(address)
    with pytest.raises(ValueError, match="HOST:PORT"):
        checked_target(address)


@pytest.mark.parametrize("address", ["host:0", "10.0.0.1:65535", "[::1]:1", "[fe80::1%eth0]:1", "unix:/a", "unix:a"])
def test_addresses_are_taken_as_they_are(address: str) -> None:
    assert checked_address(address) == checked_target(address) == address


def test_a_path_that_no_socket_can_have_is_told_at_once() -> None:
    long = "/" + "x" * 106
    assert checked_target(f"unix:{long}") == f"unix:{long}"
    assert checked_target(f"unix://{long}") == f"unix://{long}"
    with pytest.raises(ValueError, match="at most 107 bytes"):
        checked_target(f"unix:{long}x")
    with pytest.raises(ValueError, match="HOST:PORT"):
        checked_target("unix:/a\0b")


def test_a_path_with_a_comma_is_told_at_once() -> None:
    """gRPC would connect to what stands behind the comma."""
    for check in (checked_address, checked_target):
        with pytest.raises(ValueError, match="can have no comma"):
            check("unix:/a,b/c.sock")
    with pytest.raises(ValueError, match="can have no comma"):
        checked_service_address("unix:/a,b/c.sock")
    assert checked_http_address("unix:/a,b/c.sock") == "unix:/a,b/c.sock"  # not for gRPC
    setting = next(setting for setting in ROUTER if setting.name == "http-address")
    assert setting.read("unix:/a,b/c.sock") == "unix:/a,b/c.sock"


def test_a_path_for_grpc_names_no_host() -> None:
    assert [grpc_target(f"unix:{path}") for path in ("/a", "///a", "////a", "a")] == [
        "unix:/a",
        "unix:/a",
        "unix:/a",
        "unix:a",
    ]


@pytest.mark.parametrize("target", ["dns:///host:1", "dns:host", "ipv4:10.0.0.1:1,10.0.0.2:1", "xds:///name"])
def test_clients_may_name_servers_as_grpc_does(target: str) -> None:
    assert checked_target(target) == target
    with pytest.raises(ValueError, match="HOST:PORT"):
        checked_address(target)
