"""The Python API's examples, run as they stand with the real services and the demo models."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.addresses import free_address
from tests.waiting import LIMIT_S, wait_until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
TIPS = "travel tips for Tokyo"


def output_of(python: list[str], name: str) -> str:
    ended = subprocess.run(
        [*python, f"examples/{name}.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_scripts_of_flexflows_quick_start_run_and_speculation_changes_no_text(
    python: list[str], demo_llm: Path
) -> None:
    incremental, *speculative = (output_of(python, name) for name in ("incremental_decoding", "spec_infer"))
    assert len(incremental.split()) > 50
    assert speculative == [incremental]
    several = output_of(python, "spec_infer_several_ssms")
    assert several.startswith(incremental)
    numbers = re.findall(
        r"^-- (\d+) tokens in (\d+) steps of the LLM, \d+ tokens/s, the first after", several, re.MULTILINE
    )
    assert len(numbers) == 3
    assert numbers[0][0] == "128"
    assert int(numbers[2][0]) <= 20
    assert all(int(num_steps) <= int(num_tokens) for num_tokens, num_steps in numbers)


def test_gradios_chat_answers_and_keeps_the_conversation(python: list[str], demo_llm: Path) -> None:
    gradio_client = pytest.importorskip("gradio_client", reason="needs Gradio")
    address = free_address()
    host, port = address.split(":")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "GRADIO_SERVER_NAME": host,
        "GRADIO_SERVER_PORT": port,
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    process = subprocess.Popen(
        [*python, "examples/gradio_chat.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: process.poll() is not None or is_listening(host, int(port)))
        assert process.poll() is None
        chat = gradio_client.Client(f"http://{address}", verbose=False)
        # The page, whose state holds what was said, asks so too.
        first = chat.predict("Say hello.", api_name="/generate_response")
        again = chat.predict("And now say it once more.", api_name="/generate_response")
        assert all(isinstance(answer, str) and answer for answer in (first, again))
        chat.close()
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=LIMIT_S)
        finally:
            process.kill()


def is_listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
