"""gRPC's core prints no lines of its own before our errors, and reads connections without a thread more, unless somebody asked for it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import LIMIT_S

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ["router/__main__.py", "llm_service/__main__.py", "ssm_service/__main__.py", "specgrove/cli/__init__.py"]


def said(verbosity: str | None) -> str:
    """What a router says that can't listen; none of its own checks comes before gRPC's."""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    environment |= {} if verbosity is None else {"GRPC_VERBOSITY": verbosity}
    command = [sys.executable, "-m", "router", "--llm", "127.0.0.1:9", "--address", "192.0.2.1:5005"]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 1
    return ended.stderr


def test_an_error_is_told_in_our_words_alone() -> None:
    assert said(None) == "router: can't listen on 192.0.2.1:5005: it is not an address of this machine\n"


def test_whoever_asks_for_grpcs_log_gets_it() -> None:
    assert "Failed to add port to server" in said("ERROR")


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_is_silenced_before_grpc_is_imported(program: str) -> None:
    statements = ast.parse((ROOT / program).read_text()).body
    imports = [ast.unparse(found) for found in statements if isinstance(found, ast.Import | ast.ImportFrom)]
    assert imports[:2] == ["from __future__ import annotations", "import specgrove.serving.grpc_environment"]


@pytest.mark.parametrize("given", [None, "event_engine_client"])
def test_connections_are_read_without_a_thread_more_unless_asked_for(given: str | None) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_EXPERIMENTS"}
    environment |= {} if given is None else {"GRPC_EXPERIMENTS": given}
    program = "import os, specgrove.serving.grpc_environment; print(os.environ['GRPC_EXPERIMENTS'])"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    without = {"-event_engine_client", "-event_engine_listener", "-event_engine_for_all_other_endpoints"}
    assert set(found.split(",")) == ({given} if given else without)
