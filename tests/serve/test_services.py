"""When an LLM's services start and end, whatever its program does."""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import specgrove.serve as sg
from specgrove.serve.services import Services
from specgrove.suite.processes import NotReadyError
from tests.fake_router import FakeRouter
from tests.serve.conftest import RunningSuite
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parents[2]
ANSWER = "The quick brown fox"


def test_services_run_from_the_first_request_to_the_end_of_the_object(fake: FakeRouter, model_folder: Path) -> None:
    llm = sg.LLM(model_folder)
    assert RunningSuite.log == []
    llm.generate("hi")
    llm.start_server()
    assert RunningSuite.log == ["start"]
    llm.stop_server()
    llm.stop_server()
    assert RunningSuite.log == ["start", "stop"]
    with llm:
        assert llm.address == RunningSuite.address
        llm.compile(max_seq_length=50)  # other settings: the services are started anew
        llm.generate("hi")
    assert RunningSuite.log == ["start", "stop"] * 3
    llm.start_server()
    del llm
    gc.collect()
    assert RunningSuite.log == ["start", "stop"] * 4


def test_each_llm_runs_as_init_said_before_it_was_made(fake: FakeRouter, model_folder: Path) -> None:
    sg.init(num_cpus=1)
    one = sg.LLM(model_folder)
    sg.init(kv_slots=9)
    other = sg.LLM(model_folder)
    with one, other:
        assert "--kv-slots" in RunningSuite.config.llm_arguments
        one.compile()
        one.start_server()
        assert RunningSuite.config.num_threads == 1
        assert "--kv-slots" not in RunningSuite.config.llm_arguments


def test_threads_that_come_first_together_start_one_suite(fake: FakeRouter, model_folder: Path) -> None:
    llm = sg.LLM(model_folder)
    start = threading.Barrier(8)

    def generate() -> str:
        start.wait()
        return llm.generate("hi").output_text

    with concurrent.futures.ThreadPoolExecutor(8) as executor:
        texts = [future.result() for future in [executor.submit(generate) for _ in range(8)]]
    llm.stop_server()
    assert texts == [ANSWER] * 8
    assert RunningSuite.log == ["start", "stop"]


def test_services_that_do_not_start_are_one_kind_of_error(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgrove.suite.processes.process_specs", _broken_specs)
    llm = sg.LLM(model_folder)
    with pytest.raises(
        sg.StartError, match="llm_service ended with exit code 3 while starting: error: the model folder"
    ):
        llm.start_server()


def test_the_services_advice_is_in_the_callers_words(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(suite: object) -> None:
        raise NotReadyError("too much: --kv-slots 77 would fit, or a --max-model-len of 9")

    monkeypatch.setattr("specgrove.suite.processes.Suite.start", fail)
    with pytest.raises(sg.StartError, match="too much: kv_slots 77 would fit, or a max_seq_length of 9"):
        sg.LLM(model_folder).start_server()


def _broken_specs(*arguments: Any) -> tuple[Any, ...]:
    from specgrove.suite.supervisor import ProcessSpec

    return (ProcessSpec("llm_service", "tests.fake_router", ("--address", "unix:/tmp/none", "--fail")),)


# Three processes in the place of the services, and two LLMs. No `if __name__ == "__main__"`: nothing runs this file twice.
PROGRAM = """
import sys
import warnings
import specgrove.serve as sg
import specgrove.suite.processes
from specgrove.suite.supervisor import ProcessSpec

def fakes(config, addresses, local_addresses):
    return tuple(ProcessSpec(name, "tests.fake_router", ("--address", address)) for name, address in addresses.items())

specgrove.suite.processes.process_specs = fakes
llms = [sg.LLM(sys.argv[1]), sg.LLM(sys.argv[1])]
for llm in llms:
    assert llm.generate("hi").output_text == "The quick brown fox"
    suite = llm._services._suite
    print(suite.pid("router"), suite.pid("llm_service"), suite.address.removeprefix("unix:"), flush=True)
if sys.argv[2] == "interrupted":
    llm.generate(["endless"] * 3)
"""


@pytest.mark.parametrize("way", ["ends", "interrupted", "killed"])
def test_however_a_program_ends_no_process_is_left(model_folder: Path, way: str) -> None:
    argument = "ends" if way == "ends" else "interrupted"
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(model_folder), argument],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout is not None
    lines = [program.stdout.readline().split() for _ in range(2)]
    if way != "ends":
        program.send_signal(signal.SIGINT if way == "interrupted" else signal.SIGKILL)
    _, said = program.communicate(timeout=LIMIT_S)
    assert program.returncode == {"ends": 0, "interrupted": -signal.SIGINT, "killed": -signal.SIGKILL}[way], said
    for router, llm_service, socket in lines:
        wait_until(lambda pids=(router, llm_service): not any(_is_alive(int(pid)) for pid in pids))  # type: ignore[misc]
        assert way == "killed" or not Path(socket).parent.exists()


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_forked_process_leaves_its_parents_services_alone(
    fake: FakeRouter, llm: sg.LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    services: Services = llm._running()
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    services.stop()
    monkeypatch.undo()
    assert llm.generate("hi").output_text == ANSWER
