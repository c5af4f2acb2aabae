"""The interface that has an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_service import network_interface
from llm_service.network_interface import interface_with


def test_an_ipv4_address_has_its_interface() -> None:
    assert interface_with("127.0.0.1") == "lo"


def test_an_ipv6_address_has_its_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "if_inet6"
    known.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000007 02 40 00 80     eth1\n"
    )
    monkeypatch.setattr(network_interface, "_IPV6_ADDRESSES", known)
    assert interface_with("2001:db8::7") == "eth1"
    assert interface_with("2001:db8::8") is None
    monkeypatch.setattr(network_interface, "_IPV6_ADDRESSES", tmp_path / "of a kernel without IPv6")
    assert interface_with("2001:db8::7") is None


def test_an_address_of_another_machine_has_none() -> None:
    assert interface_with("192.0.2.77") is None
