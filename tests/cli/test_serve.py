"""``specgrove serve`` as a process, with made-up services: what it says, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from specgrove.cli import main
from tests.addresses import free_address, free_addresses, taken_address
from tests.cli import fake_services
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent


def start(address: str, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", fake_services.__name__, "serve", "--grpc-address", address, *more],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_in_order_on_a_signal(number: signal.Signals) -> None:
    address, metrics = free_address(), free_addresses(3)[0]
    process = start(address, "--metrics-address", metrics)
    assert process.stderr is not None
    lines = []
    watchdog = threading.Timer(LIMIT_S, process.kill)
    watchdog.start()
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if line.startswith("serving"):
            os.kill(process.pid, number)
    watchdog.cancel()
    assert process.wait(LIMIT_S) == 0
    places = f"gRPC at {address}, metrics at http://{metrics}/metrics"
    assert f"serving fake (), SSMs: lookup, demo, {places}; Ctrl-C stops" in lines
    assert f"router: hello from {address}" in lines
    assert lines[-1] != ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=LIMIT_S)


def test_an_address_that_is_taken_is_one_clear_line() -> None:
    with taken_address() as address:
        process = start(address)
        _, stderr = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert (
        stderr
        == f"specgrove: error: --grpc-address: can't listen on {address}: another server does; give another port, or stop it\n"
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--http-address", "{taken}"],
            "--http-address: can't listen on {taken}: another server does; give another port, or stop it",
        ),
        (["--http-address", "{grpc}"], "--grpc-address and --http-address are the same, {grpc}; give two"),
        (["--metrics-address", "{grpc}"], "--grpc-address and --metrics-address are the same, {grpc}; give two"),
        (
            ["--metrics-address", "127.0.0.1:65534"],
            "127.0.0.1:65534 and the next 2 ports must be from 1 to 65535: give a port up to 65533",
        ),
        (
            ["--http-allowed-origins", "*"],
            "--http-allowed-origins needs --http-address: by gRPC there are no web pages",
        ),
        (
            ["--api-key-file", "/absent"],
            "--api-key-file: /absent: No such file or directory",
        ),
    ],
)
def test_what_http_cannot_use_is_one_clear_line(
    flags: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing has been started by then, so no process is needed."""
    fake_services.use_fakes(monkeypatch.setattr)
    with taken_address() as taken:
        addresses = {"taken": taken, "grpc": free_address(), "free": free_address()}
        words = (flag.format(**addresses) for flag in flags)
        assert main(["serve", "--grpc-address", addresses["grpc"], *words]) == 1
    assert capsys.readouterr().err == f"specgrove: error: {message.format(**addresses)}\n"
