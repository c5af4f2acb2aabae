"""Where a server could listen, and why not where it can't."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from llm_service import __main__ as llm_service
from specgrove.serving.listening import bound_socket, check_can_listen
from ssm_service import __main__ as ssm_service
from tests.addresses import free_address, taken_address


def test_a_free_address_is_free_and_stays_so() -> None:
    address = free_address()
    for _ in range(2):
        check_can_listen(address)
    check_can_listen("127.0.0.1:0")


def test_a_taken_port_is_told() -> None:
    with taken_address() as address, pytest.raises(OSError, match="another server does"):
        check_can_listen(address)


@pytest.mark.parametrize(("service", "flag"), [(llm_service, "--model"), (ssm_service, "--ssm")])
def test_services_tell_it_before_they_load_anything(
    service: ModuleType, flag: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "set_up_logging", lambda *_: None)
    with taken_address() as address:
        monkeypatch.setattr(sys, "argv", ["service", "--address", address, flag, "/no/such/model"])
        assert service.main() == 1
    assert f"can't listen on {address}: another server does" in caplog.text


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.1:50051", "it is not an address of this machine"),
        ("no.such.invalid:1", "nobody knows the name"),
        ("..:1", "nobody knows the name '..'"),
    ],
)
def test_what_can_not_be_is_told(address: str, reason: str) -> None:
    with pytest.raises(OSError, match=f"can't listen on {address}: {reason}"):
        check_can_listen(address)


def name_of(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Every name stands for these addresses."""

    def getaddrinfo(name: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_a_name_of_which_another_server_has_one_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of localhost a client may try 127.0.0.1 first, and reach that one."""
    with taken_address() as address:
        name_of(monkeypatch, "127.0.0.2", "127.0.0.1")
        port = address.rpartition(":")[2]
        for listen in (check_can_listen, bound_socket):
            with pytest.raises(OSError, match=f"can't listen on both:{port}: another server does"):
                listen(f"both:{port}")


def test_addresses_that_the_machine_does_not_have_are_left_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As localhost's ::1, where IPv6 is off."""
    name_of(monkeypatch, "192.0.2.1", "127.0.0.1")
    check_can_listen("both:0")
    with bound_socket("both:0") as bound:
        assert bound.getsockname()[0] == "127.0.0.1"
    name_of(monkeypatch, "192.0.2.1", "198.51.100.1")
    with pytest.raises(OSError, match="it is not an address of this machine"):
        bound_socket("both:0")


def test_a_unix_socket_needs_a_folder(tmp_path: Path) -> None:
    check_can_listen(f"unix:{tmp_path}/router.sock")
    with pytest.raises(OSError, match="there is no folder"):
        check_can_listen(f"unix:{tmp_path}/no/router.sock")
