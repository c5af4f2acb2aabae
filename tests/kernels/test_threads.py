"""The thread pool: settings, callers from several threads, and failures inside a task."""

from __future__ import annotations

import errno
import os
import re
import runpy
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch

from specgrove.kernels import __main__ as kernels_main
from specgrove.kernels import _native, sampling, threads
from specgrove.kernels.linear import PackedLinear
from tests.waiting import LIMIT_S


def test_settings() -> None:
    threads.set_num_threads(3)
    assert threads.get_num_threads() == 3
    with pytest.raises(ValueError, match="at least 1"):
        threads.set_num_threads(0)
    with pytest.raises(ValueError, match="isa must be 'plain'"):
        threads.set_isa("sse9")


def test_callers_from_several_threads_do_not_disturb_one_another() -> None:
    linear, x = PackedLinear(torch.randn(512, 96)), torch.randn(8, 96)
    expected = linear(x)
    wrong: list[int] = []

    def call(number: int) -> None:
        wrong.extend(number for _ in range(200) if not torch.equal(linear(x), expected))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LIMIT_S)
    assert not wrong


def test_more_threads_than_processors_compute_the_same() -> None:
    """Workers lose their processor within tasks then, and the caller sleeps until they are done."""
    linear, x = PackedLinear(torch.randn(2048, 512)), torch.randn(16, 512)
    expected = linear(x)
    threads.set_num_threads(4 * (os.cpu_count() or 1))
    assert all(torch.equal(linear(x), expected) for _ in range(300))


def _threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


def _is_asleep(thread_id: int) -> bool:
    state = Path(f"/proc/self/task/{thread_id}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
    return state == "S"


@pytest.mark.skipif(not 2 <= len(os.sched_getaffinity(0)) <= 16, reason="Linux finds an idle one of more processors")
def test_a_worker_is_not_woken_up_where_the_caller_runs() -> None:
    """It would interrupt the caller, and spin in its place."""
    linear, x = PackedLinear(torch.randn(2048, 512)), torch.randn(16, 512)
    threads.set_num_threads(1)
    before = _threads()
    threads.set_num_threads(2)
    (worker,) = _threads() - before
    while not _is_asleep(worker):
        time.sleep(1e-4)
    linear(x)
    assert len(os.sched_getaffinity(worker)) == len(os.sched_getaffinity(0)) - 1


# Objects of every class that a step makes, made and dropped by several threads. A constructor that adds to pybind11's table of instances
# without the GIL ends this program within a second.
MAKING_OBJECTS = """
import sys, threading
from specgrove.kernels.candidates import CandidateRow
from specgrove.kernels.sampling import ChoiceParams
from specgrove.runtime.pass_builder import PassBuilder, TreeRows

sys.setswitchinterval(1e-5)
builder = PassBuilder()
builder.add([], tree=TreeRows([0], [-1], [0]))
rows = builder.build()

def make(new, num_rounds, num_kept):
    for _ in range(num_rounds):
        kept = [new() for _ in range(num_kept)]

makers = [(rows.plan, 2000, 50)] * 2 + [(lambda: CandidateRow(1), 30, 5000), (lambda: ChoiceParams(seed=1), 30, 5000)]
callers = [threading.Thread(target=make, args=maker) for maker in makers]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
print("made")
"""


def test_several_threads_make_native_objects() -> None:
    """As the step loops of one process do. In a process of its own: it would end all tests."""
    done = subprocess.run([sys.executable, "-c", MAKING_OBJECTS], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("made\n", "", 0)


def test_a_failure_in_a_task_reaches_the_caller() -> None:
    logits = torch.randn(6, 100)
    logits[4, 3] = torch.nan
    for _ in range(50):
        with pytest.raises(ValueError, match="NaN"):
            sampling.top_k_log_probs(logits, 3)
    assert sampling.top_k_log_probs(logits[:4], 3)[0].shape == (4, 3)


def test_the_module_prints_how_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m specgrove.kernels``"""
    with warnings.catch_warnings(action="ignore"):  # it is imported already
        runpy.run_module("specgrove.kernels", run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(r"^instructions +(amx|amx_twin|avx512|avx2|plain)\b", printed, re.MULTILINE)
    assert "bfloat16" in printed


def test_where_amx_is_there_and_not_used_the_reason_is_given() -> None:
    def refusal(
        *, is_in_processor: bool = True, is_enabled: bool = True, has_avx512: bool = True, error: int = 0
    ) -> str:
        return _native.amx_refusal_of(
            is_in_processor=is_in_processor, is_enabled=is_enabled, has_avx512=has_avx512, request_error=error
        )

    assert refusal() == refusal(is_in_processor=False, is_enabled=False) == ""
    assert "the system has not enabled it" in refusal(is_enabled=False)
    assert "need AVX-512" in refusal(has_avx512=False)
    assert "signal stack" in refusal(error=errno.ENOSPC)
    assert refusal(error=errno.EPERM) == "the system does not allow it: Operation not permitted"


def test_a_refusal_of_amx_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels_main, "amx_refusal", lambda: "a thread has a small signal stack")
    kernels_main.main()
    assert re.search(r"^AMX +not in use: a thread has a small signal stack$", capsys.readouterr().out, re.MULTILINE)
