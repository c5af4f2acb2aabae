"""A server in a process of its own: signals end it, a failure ends its drain, and its death is noticed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest

from specgrove.errors import UnavailableError
from specgrove.serving import address as address_module
from specgrove.serving.server import serve_until_signal
from specgrove.v1 import ssm_pb2
from tests.serving.toy_service import EchoServicer, called, client_of, result_of, server_of, until_unhealthy
from tests.waiting import LIMIT_S, until

_PROGRAM = """
import asyncio
from tests.serving.toy_service import EchoServicer, SERVICE_NAME
from specgrove.serving import address as address_module
from specgrove.serving.health import Health
from specgrove.serving.server import run_server
from specgrove.v1 import ssm_pb2_grpc
async def main():
    servicer = EchoServicer()
    await run_server("127.0.0.1:0", lambda s: ssm_pb2_grpc.add_SsmServiceServicer_to_server(servicer, s),
                     health=Health([SERVICE_NAME]), drain=servicer.streams.drain)
asyncio.run(main())
"""


async def _process() -> tuple[asyncio.subprocess.Process, str]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PROGRAM, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), LIMIT_S)).decode()
    assert line.startswith("listening on 127.0.0.1:")
    return process, line.split()[-1]


async def test_sigterm_ends_the_process_cleanly() -> None:
    process, address = await _process()
    client = client_of(address)
    assert (await called(client)).draft.base == 2
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), LIMIT_S) == 0
    await client.close()


async def test_a_failure_ends_a_drain(capsys: pytest.CaptureFixture[str]) -> None:
    failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    servicer = EchoServicer()
    running = asyncio.create_task(serve_until_signal(server_of(servicer), failed))
    said = ""
    while not said.endswith("\n"):
        await asyncio.sleep(0.005)
        said += capsys.readouterr().out
    client = client_of(said.split()[-1])
    await client.connected.wait()
    slow = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow", base=3)))
    await until(lambda: servicer.streams.num_pending_items == 1)
    os.kill(os.getpid(), signal.SIGTERM)
    await until_unhealthy(client.channel)
    assert not running.done()  # the drain waits for the call
    failed.set_exception(RuntimeError("rank 1 is gone"))
    with pytest.raises(RuntimeError, match="rank 1 is gone"):
        await asyncio.wait_for(running, LIMIT_S)
    slow.cancel()
    await client.close()


async def test_a_killed_peer_is_noticed_by_its_closed_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_module, "_KEEPALIVE", ())  # pings would notice it too, later
    process, address = await _process()
    client = client_of(address)
    await client.connected.wait()
    pending = asyncio.create_task(result_of(client, ssm_pb2.DraftItem(session_id="slow")))
    await until(lambda: bool(client._under_way))
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UnavailableError):
        await asyncio.wait_for(pending, LIMIT_S)
    await process.wait()
    await client.close()
