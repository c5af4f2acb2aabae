"""``specgrove chat --web`` as a process, with a made-up router: the page is there, with the command's options, until a signal."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from specgrove.cli import main
from tests.addresses import free_address
from tests.fake_router import FakeRouter
from tests.waiting import LIMIT_S, wait_until

if importlib.util.find_spec("gradio") is None:  # to import it takes seconds, and this process needs none of it
    pytest.skip("the chat page needs Gradio", allow_module_level=True)
ROOT = Path(__file__).parent.parent.parent


def config_at(address: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"http://{address}/config") as response:
            found: dict[str, Any] = json.load(response)
    except OSError:
        return None
    return found


def status_at(address: str, headers: dict[str, str]) -> int:
    asked = urllib.request.Request(f"http://{address}/config", headers=headers)
    try:
        with urllib.request.urlopen(asked) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_page_is_there_until_a_signal(
    fake_router: tuple[FakeRouter, str], tmp_path: Path, number: signal.Signals
) -> None:
    address = free_address()
    command = [sys.executable, "-m", "specgrove.cli", "chat", "--address", fake_router[1], "--web", address]
    # A browser that only tells what it was to open.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "BROWSER": "true %s", "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*command, "--temperature", "0.7", "--system", "Be brief."], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: process.poll() is not None or config_at(address) is not None)
        config = config_at(address)
        assert config is not None
        values = {
            component["props"].get("label"): component["props"].get("value") for component in config["components"]
        }
        assert (values["Temperature"], values["System prompt"]) == (0.7, "Be brief.")
        assert not config["analytics_enabled"]
        assert status_at(address, {"sec-fetch-site": "same-origin"}) == 200
        for of_other_page in ({"sec-fetch-site": "cross-site"}, {"origin": "http://evil.example"}):
            assert status_at(address, of_other_page) == 403
        assert status_at(address, {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}) == 200  # a link
        process.send_signal(number)
        _, said = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert said.splitlines() == [f"chat with fake at http://{address}; Ctrl-C ends it"]


def test_without_gradio_it_is_said_at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["chat", "--web"]) == 1
    assert "pip install 'specgrove[web]'" in capsys.readouterr().err
