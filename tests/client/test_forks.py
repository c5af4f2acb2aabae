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


class _Channels:
    """Of a client."""


def test_an_async_client_says_so_in_a_forked_process_where_it_would_hang() -> None:
    program = subprocess.run(
        [sys.executable, "-c", _FORKED, str(int(LIMIT_S))], capture_output=True, text=True, check=False
    )
    assert program.returncode == 0, program.stderr
    *told, closed = program.stdout.splitlines()
    assert len(told) == 2
    assert all("used before this process was forked had not been closed" in line for line in told)
    assert closed == "closed"


def test_an_async_client_may_be_used_in_a_forked_process_where_those_before_were_closed() -> None:
    forks, channels = Forks(), [_Channels(), _Channels()]
    for each in channels:
        forks.opened_async(each)
    for each in channels:
        forks.closed_async(each)
    forks.forked()
    forks.check_async_call()
    forks.opened_async(channels[0])
    forks.forked()
    with pytest.raises(UnavailableError, match="had not been closed"):
        forks.check_async_call()


def test_a_client_says_so_in_a_process_that_was_forked_amid_a_stream() -> None:
    """gRPC could not be brought into order there: any call would wait for ever."""
    forks = Forks()
    with forks.call(is_stream=True):
        pass
    forks.forked()
    with forks.call(is_stream=False):
        forks.forked()
    with forks.call(is_stream=True):  # no stream was under way
        forks.forked()
    with pytest.raises(UnavailableError, match="forked while a stream was under way"), forks.call(is_stream=False):
        pytest.fail("it would hang")
