"""Clients in a process that was forked: gRPC would wait for ever there, so they say what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from specgrove.client.forks import Forks
from specgrove.errors import UnavailableError
from tests.waiting import LIMIT_S

_FORKED = """
import asyncio, os, signal, sys
from specgrove.client import AsyncClient
from specgrove.errors import UnavailableError

async def told(client):
    try:
        await client.model_info()
    except UnavailableError as error:
        return str(error)

async def closed(client):
    await client.close()

client, unused = AsyncClient("127.0.0.1:1"), AsyncClient("127.0.0.1:1")
assert "connect" in asyncio.run(told(client))
if (child := os.fork()) == 0:
    signal.alarm(int(sys.argv[1]))  # only ends a process that hangs
    print(asyncio.run(told(client)), flush=True)
    print(asyncio.run(told(unused)), flush=True)
    asyncio.run(closed(client))
    print("closed", flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert "connect" in asyncio.run(told(client))
asyncio.run(closed(client))
"""


def test_an_async_client_says_so_in_a_forked_process_where_it_would_hang() -> None:
    program = subprocess.run(
        [sys.executable, "-c", _FORKED, str(int(LIMIT_S))], capture_output=True, text=True, check=False
    )
    assert program.returncode == 0, program.stderr
    *told, closed = program.stdout.splitlines()
    assert len(told) == 2
    assert all("an AsyncClient was used before this process was forked" in line for line in told)
    assert closed == "closed"


def test_a_client_says_so_in_a_process_that_was_forked_amid_a_call() -> None:
    """gRPC could not be brought into order there: any call would wait for ever."""
    forks = Forks()
    with forks.call():
        pass
    forks.forked()
    with forks.call():  # nothing was under way
        forks.forked()
    with pytest.raises(UnavailableError, match="was forked while a call was under way"), forks.call():
        pytest.fail("it would hang")
