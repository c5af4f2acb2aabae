"""Where a server could listen, and why not where it can't."""

from __future__ import annotations

from pathlib import Path

import pytest

from specgrove.serving.listening import check_can_listen
from tests.addresses import free_address, taken_address


def test_a_free_address_is_free_and_stays_so() -> None:
    address = free_address()
    for _ in range(2):
        check_can_listen(address)
    check_can_listen("127.0.0.1:0")


def test_a_taken_port_is_told() -> None:
    with taken_address() as address, pytest.raises(OSError, match="another server does"):
        check_can_listen(address)


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
