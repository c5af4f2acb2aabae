"""``specgrove serve`` with the real services over a tiny model: what its options make of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.addresses import free_address
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def command(tiny_model: Path, tmp_path: Path) -> list[str]:
    address = f"unix:{tmp_path}/router.sock"
    serve = [sys.executable, "-m", "specgrove.cli", "serve", "--grpc-address", address, "--llm", str(tiny_model)]
    return [*serve, "--ssm", "none", "--cache-dir", str(tmp_path / "cache")]


def test_options_of_the_services_reach_them(command: list[str]) -> None:
    http = free_address()
    options = ["--quantization", "int8", "--dtype", "float32", "--kv-slots", "333", "--threads", "1"]
    options += ["--http-address", http]
    lines, models = [], b""
    with subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith("serving"):
                with urllib.request.urlopen(f"http://{http}/v1/models", timeout=LIMIT_S) as response:
                    models = response.read()
                os.kill(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, lines
    log = "".join(lines)
    assert "dtype float32, quantization int8" in log
    assert "333 KV slots" in log
    assert "; 1 threads" in log
    assert f", HTTP at http://{http}/v1; Ctrl-C stops" in log
    assert json.loads(models)["data"][0]["max_model_len"] == 333


def test_services_that_are_not_ready_in_time_are_named(command: list[str]) -> None:
    ended = subprocess.run(
        [*command, "--start-timeout-s", "0.01"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert ended.returncode == 1
    assert "llm_service, router not ready after 0.01 s" in ended.stderr
    assert "Traceback" not in ended.stderr
