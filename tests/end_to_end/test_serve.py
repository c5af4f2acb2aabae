"""``specgrove serve`` with the real services over a tiny model: what its options make of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from specgrove.client import Client
from specgrove.errors import SpecGroveError
from tests.addresses import free_address
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def command(python: list[str], tiny_model: Path, tmp_path: Path) -> list[str]:
    address = f"unix:{tmp_path}/router.sock"
    serve = [*python, "specgrove.cli", "serve", "--grpc-address", address, "--llm", str(tiny_model)]
    return [*serve, "--ssm", "none", "--cache-dir", str(tmp_path / "cache")]


def test_a_files_and_the_commands_options_reach_the_services_and_keys_are_asked_for(
    command: list[str], tmp_path: Path
) -> None:
    http = free_address()
    (tmp_path / "keys").write_text("# of a test\nsecret-key\n")
    settings = f"""
        threads: 1
        router: {{http-address: "{http}", api-key-file: "{tmp_path}/keys"}}
        llm: {{quantization: int8, dtype: float32, kv-slots: 444}}
        """
    (tmp_path / "suite.yaml").write_text(settings)
    options = ["--config", f"{tmp_path}/suite.yaml", "--llm.kv-slots", "333", "--verbose"]
    address = command[command.index("--grpc-address") + 1]
    lines, models, refused, text = [], b"", "", ""
    with subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if line.startswith("serving"):
                with Client(address) as client:
                    refused = outcome_of(client)
                with Client(address, api_key="secret-key") as client:
                    text = outcome_of(client)
                request = urllib.request.Request(
                    f"http://{http}/v1/models", headers={"authorization": "Bearer secret-key"}
                )
                with urllib.request.urlopen(request, timeout=LIMIT_S) as response:
                    models = response.read()
                os.kill(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, lines
    log = "".join(lines)
    assert "dtype float32, quantization int8" in log
    assert "333 KV slots" in log
    assert "; 1 threads" in log
    assert f", HTTP at http://{http}/v1; Ctrl-C stops" in log
    assert json.loads(models)["data"][0]["max_model_len"] == 333
    assert refused == "an API key is needed: send 'authorization: Bearer KEY'"
    assert text == "3 tokens"
    assert "secret-key" not in log


def outcome_of(client: Client) -> str:
    try:
        return f"{len(client.complete('one', max_tokens=3, timeout_s=LIMIT_S).tokens)} tokens"
    except SpecGroveError as error:
        return str(error)


def test_it_says_where_it_listens_and_nothing_else_but_a_line_per_request_if_asked(command: list[str]) -> None:
    address = command[command.index("--grpc-address") + 1]
    lines = []
    with subprocess.Popen([*command, "--log-requests"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if line.startswith("serving"):
                with Client(address) as client:
                    client.complete("one", max_tokens=3)
            if " router: request " in line:
                os.kill(process.pid, signal.SIGTERM)
        assert process.wait(LIMIT_S) == 0, lines
    assert len(lines) == 3, lines
    assert lines[0] == f"serving tiny_model0 (bfloat16), SSMs: none, gRPC at {address}; Ctrl-C stops"
    assert re.fullmatch(r"[\d:.]+ INFO router: request \w{8}: 3 \+ 3 tokens in \d+ ms, .*, length", lines[1])
    assert lines[2].startswith("stopping the services when the requests under way have ended")


def test_services_that_are_not_ready_in_time_are_named(command: list[str], tmp_path: Path) -> None:
    """Here none is ever found ready: real ones may be, however short the time."""
    program = tmp_path / "never_ready.py"
    program.write_text("""
import sys
from specgrove.cli import main
from specgrove.suite import processes
processes.is_serving = lambda address: False
sys.exit(main())
""")
    module = command.index("specgrove.cli")
    serve = [*command[:module], str(program), *command[module + 1 :]]
    ended = subprocess.run(
        [*serve, "--start-timeout-s", "0.01"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert ended.returncode == 1
    assert "llm_service, router not ready after 0.01 s" in ended.stderr
    assert "Traceback" not in ended.stderr
