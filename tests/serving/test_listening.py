"""Where a server could listen, and why not where it can't."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from llm_service import __main__ as llm_service
from specgrove.serving.listening import check_can_listen
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
    [("192.0.2.1:50051", "it is not an address of this machine"), ("no.such.invalid:1", "nobody knows the name")],
)
def test_what_can_not_be_is_told(address: str, reason: str) -> None:
    with pytest.raises(OSError, match=f"can't listen on {address}: {reason}"):
        check_can_listen(address)


def test_a_unix_socket_needs_a_folder(tmp_path: Path) -> None:
    check_can_listen(f"unix:{tmp_path}/router.sock")
    with pytest.raises(OSError, match="there is no folder"):
        check_can_listen(f"unix:{tmp_path}/no/router.sock")
