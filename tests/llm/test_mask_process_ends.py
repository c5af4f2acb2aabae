"""Processes that make masks are killed, can't be begun, and end with the service: outputs don't show it."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_service.mask_forks import MaskForks
from llm_service.mask_processes import MaskProcesses
from llm_service.mask_streams import ForkServer
from specgrove.structures.masks import MaskLimits
from tests.llm.mask_asker import AMBIGUOUS, LETTERS, LIMITS, TOKENIZER, Asker, allowed_after, ids_of
from tests.structures.examples import choice, schema
from tests.waiting import wait_until


def test_processes_that_are_killed_are_no_loss(asker: Asker) -> None:
    output = asker.open(LETTERS)
    asker.answered(output, 0, "adb")
    (pid,) = asker.processes.pids()
    os.kill(pid, signal.SIGKILL)
    assert ids_of(asker.answered(output, 3, "d")) == allowed_after(LETTERS, "adbd")
    assert asker.processes.pids() != (pid,)
    assert asker.processes.server_pid is not None
    os.kill(asker.processes.server_pid, signal.SIGKILL)
    assert ids_of(asker.answered(output, 4, "c")) == allowed_after(LETTERS, "adbdc")


def test_one_that_is_killed_while_it_compiles_is_begun_again_once(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    take_news = MaskForks._take_news

    def killing(forks: MaskForks, has_begun: bool, pid: int, status: int) -> None:
        take_news(forks, has_begun, pid, status)
        if has_begun:
            pids.append(pid)
            if len(pids) == 1:
                os.kill(pid, signal.SIGKILL)

    monkeypatch.setattr(MaskForks, "_take_news", killing)
    structure = schema({"type": "array", "items": {"enum": [f"{i:05}" for i in range(20_000)]}, "maxItems": 3})
    assert ids_of(asker.answered(asker.open(structure), 0)) == {TOKENIZER.encode(letter)[0] for letter in ("[", "[]")}
    assert asker.processes.pids() == tuple(pids[1:])


def test_killed_ones_hours_apart_fail_no_output(asker: Asker) -> None:
    output, text = asker.open(LETTERS), ""
    for letter in "adbecf":
        asker.answered(output, len(text), letter)
        text += letter
        os.kill(asker.processes.pids()[-1], signal.SIGSTOP)
        number = asker.ask(output, len(text))
        os.kill(asker.processes.pids()[-1], signal.SIGKILL)
        assert ids_of(asker.answer(output, number)) == allowed_after(LETTERS, text)


def test_where_files_run_out_outputs_are_told_and_others_go_on(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    going_on = asker.open(LETTERS)
    asker.answered(going_on, 0)
    structure = choice("yes", "no")

    def none(*families: int) -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("llm_service.mask_streams.socket.socketpair", none)
        output = asker.open(structure)
        found = asker.answered(output, 0)
        assert found.may_retry
        assert "Too many open files" in found.problem
        asker.processes.forget(output)
        asker.processes.forget(output + 100)
        assert ids_of(asker.answered(going_on, 0, "ad"))
    assert ids_of(asker.answered(asker.open(structure), 0)) == allowed_after(structure, "")


def test_a_process_that_can_not_be_asked_for_is_none(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next ones have their own ids."""
    asker.answered(asker.open(LETTERS), 0)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    with monkeypatch.context() as patched:
        patched.setattr("llm_service.mask_streams.socket.send_fds", full)
        assert asker.answered(asker.open(choice("yes")), 0).may_retry
    output = asker.open(choice("no"))
    asker.answered(output, 0)
    os.kill(asker.processes.pids()[-1], signal.SIGKILL)
    assert ids_of(asker.answered(output, 0, "n")) == {TOKENIZER.encode("o")[0]}


@pytest.mark.parametrize("fault", ["fork", "beginning"])
def test_where_none_can_be_forked_outputs_are_told(
    fault: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    spoilt = {
        "fork": "def fork():\n    raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork\n",
        "beginning": "if 'specgrove.structures.mask_server' in sys.orig_argv:\n    os._exit(3)\n",
    }[fault]
    (tmp_path / "sitecustomize.py").write_text("import os, sys\n" + spoilt)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path.cwd()}")
    processes = MaskProcesses(TOKENIZER, LIMITS)
    asker = Asker(processes)
    try:
        found = [asker.answered(asker.open(structure), 0) for structure in (LETTERS, LETTERS, choice("yes"))]
    finally:
        processes.close()
    assert all(answer.may_retry and "no process can be begun" in answer.problem for answer in found)
    assert not processes.pids()
    num_servers = sum("has ended; it is begun anew" in record.message for record in caplog.records)
    # The last one rested; on a very slow machine for longer than it waits.
    assert num_servers == 0 if fault == "fork" else num_servers >= 2


def test_all_end_with_what_started_them(asker: Asker) -> None:
    asker.answered(asker.open(LETTERS), 0)
    pids = [*asker.processes.pids(), asker.processes.server_pid]
    asker.processes.close()
    for pid in pids:
        assert pid is not None
        wait_until(lambda pid=pid: _has_ended(pid))  # type: ignore[misc]


def _has_ended(pid: int) -> bool:
    """Though process 1 may not have looked after it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_all_end_with_a_service_that_is_killed() -> None:
    script = (
        "from tests.llm.mask_asker import *\n"
        "asker = Asker(MaskProcesses(TOKENIZER, MaskLimits(output_s=1000.0)))\n"
        "output = asker.open(AMBIGUOUS)\nasker.answered(output, 0)\nasker.ask(output, 0, 'a' * 30)\n"
        "print(*asker.processes.pids(), asker.processes.server_pid, flush=True)\nthreading.Event().wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        pids = [int(word) for word in service.stdout.readline().split()]
        service.kill()
    assert len(pids) == 2
    for pid in pids:
        wait_until(lambda pid=pid: _has_ended(pid))  # type: ignore[misc]


def test_a_busy_one_ends_with_the_process_that_forked_it() -> None:
    processes = MaskProcesses(TOKENIZER, MaskLimits(output_s=1000.0))
    asker = Asker(processes)
    try:
        output = asker.open(AMBIGUOUS)
        asker.answered(output, 0)
        asker.ask(output, 0, "a" * 30)
        (pid,) = processes.pids()
        assert processes.server_pid is not None
        os.kill(processes.server_pid, signal.SIGKILL)
        wait_until(lambda: _has_ended(pid))
    finally:
        processes.close()


def test_an_id_is_no_other_process_s_before_its_end_is_known(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    release, held = ForkServer.release, []

    def releasing(server: ForkServer, pid: int) -> None:
        held.append(not _is_gone(pid))
        release(server, pid)

    monkeypatch.setattr(ForkServer, "release", releasing)
    asker.answered(asker.open(LETTERS), 0)
    (pid,) = asker.processes.pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _is_gone(pid))
    assert held == [True]


def test_structures_that_wait_when_the_forker_ends_begin_with_the_next_one() -> None:
    """It ends after it has told of a process's end, and before it is asked for the next one."""
    processes = MaskProcesses(TOKENIZER, MaskLimits(num_processes=2))
    asker = Asker(processes)
    try:
        leaving, staying = asker.open(choice("a")), asker.open(choice("b"))
        for output in (leaving, staying):
            asker.answered(output, 0)
        waiting = [(output, asker.ask(output, 0)) for output in (asker.open(choice(text)) for text in ("c", "d"))]

        def end_both() -> None:
            pid, server_pid = processes.pids()[0], processes.server_pid
            assert server_pid is not None
            processes._forget(leaving)
            wait_until(lambda: _has_ended(pid))
            time.sleep(0.1)  # it tells
            os.kill(server_pid, signal.SIGKILL)
            wait_until(lambda: _has_ended(server_pid))

        processes._call(end_both)
        for output, number in waiting:
            assert asker.answer(output, number).allowed is not None
    finally:
        processes.close()


def test_a_mistake_on_the_masks_thread_leaves_no_question_open(asker: Asker) -> None:
    output, other = asker.open(LETTERS), asker.open(choice("yes"))
    asker.answered(output, 0)
    asker.answered(other, 0)
    for pid in asker.processes.pids():
        os.kill(pid, signal.SIGSTOP)
    number = asker.ask(output, 0)

    def wrong() -> None:
        raise AssertionError

    asker.processes._call(wrong)
    assert asker.answer(output, number).may_retry
    for pid in asker.processes.pids():
        os.kill(pid, signal.SIGCONT)
    assert ids_of(asker.answered(other, 0)) == allowed_after(choice("yes"), "")
