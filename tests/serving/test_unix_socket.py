"""A server takes a unix socket's path only where nobody else has it."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from specgrove.addresses import socket_path
from specgrove.client import Client
from specgrove.errors import SpecGroveError
from specgrove.suite.readiness import is_serving
from tests.serving.toy_service import EchoServicer, client_of, server_of
from tests.waiting import LIMIT_S


async def test_a_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary")
    with pytest.raises(OSError, match="it is there and no socket"):
        await server_of(EchoServicer(), f"unix:{path}").start()
    assert path.read_text() == "dear diary"
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(OSError, match="no socket"):
        await server_of(EchoServicer(), f"unix:{link}").start()
    assert link.is_symlink()


async def test_a_server_that_runs_keeps_its_socket(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/a.sock"
    first = server_of(EchoServicer())
    first.address = address
    await first.start()
    with pytest.raises(OSError, match="another server does"):
        await server_of(EchoServicer(), address).start()
    client = client_of(address)
    await client.connected.wait()
    await client.close()
    await first.stop(0)


@pytest.mark.parametrize("name", ["a b", "50%41", "a#b", "what?", "\u00e4\u6f22", "a:b;c=d&e", "a\\b"])
async def test_any_path_will_do(name: str, tmp_path: Path) -> None:
    """Some of its characters mean something else in the URL that gRPC takes an address for."""
    folder = tmp_path / name
    folder.mkdir()
    server = server_of(EchoServicer(), f"unix:{folder}/a.sock")
    await server.start()
    assert (folder / "a.sock").is_socket()
    client = client_of(server.address)
    await asyncio.wait_for(client.connected.wait(), LIMIT_S)
    await client.close()
    assert await asyncio.to_thread(is_serving, server.address)
    with Client(server.address) as other, pytest.raises(SpecGroveError, match="UNIMPLEMENTED"):  # by who was reached
        await asyncio.to_thread(other.model_info)
    await server.stop(0)


async def test_what_a_killed_server_left_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert path.is_socket()
    server = server_of(EchoServicer(), f"unix:{path}")
    await server.start()
    client = client_of(f"unix:{path}")
    await client.connected.wait()
    await client.close()
    await server.stop(0)


async def test_paths_that_cannot_be_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="there is no folder"):
        await server_of(EchoServicer(), f"unix:{tmp_path}/nowhere/a.sock").start()
    with pytest.raises(OSError, match="at most 107 bytes"):
        await server_of(EchoServicer(), f"unix:{tmp_path}/{'long' * 30}.sock").start()


def test_the_path_of_an_address() -> None:
    assert [str(socket_path(address)) for address in ("unix:/a/b", "unix:///a/b", "unix:b")] == ["/a/b", "/a/b", "b"]
