"""Services of a benchmark as processes: started, waited for, and ended. Used by ``benchmarks.router`` and ``benchmarks.async_drafting``.

Invariant: none outlives the block. Where it ends by an error, what they wrote last is told.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.addresses import grpc_target

_START_TIMEOUT_S = 60.0
_MAX_TOLD_CHARACTERS = 4000


@contextlib.contextmanager
def served(
    commands: Sequence[Sequence[str]], router: str, folder: Path, root: Path | None = None
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Arguments of Python for each, the router's last; it is at the address ``router``. All write to a log in ``folder``.

    The router's sources are those in ``root``, if it is given.
    """
    roots = [Path.cwd()] * (len(commands) - 1) + [root or Path.cwd()]
    processes: list[subprocess.Popen[bytes]] = []
    log_path = folder / "log.txt"
    with open(log_path, "wb") as log:
        try:
            for place, command in zip(roots, commands, strict=True):
                environment = {**os.environ, "PYTHONPATH": str(place)}
                processes.append(
                    subprocess.Popen([sys.executable, *command], cwd=place, env=environment, stdout=log, stderr=log)
                )
            _wait_serving(router)
            yield processes
        except BaseException:
            sys.stderr.write(log_path.read_text()[-_MAX_TOLD_CHARACTERS:])
            raise
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def _wait_serving(address: str) -> None:
    """Raises ``TimeoutError`` for a router that does not serve."""
    until_s = time.monotonic() + _START_TIMEOUT_S
    with grpc.insecure_channel(grpc_target(address)) as channel:
        grpc.channel_ready_future(channel).result(_START_TIMEOUT_S)
        request = health_pb2.HealthCheckRequest(service="specgrove.v1.RouterService")
        while health_pb2_grpc.HealthStub(channel).Check(request).status != health_pb2.HealthCheckResponse.SERVING:
            if time.monotonic() > until_s:
                raise TimeoutError("the router does not serve")
            time.sleep(0.05)
