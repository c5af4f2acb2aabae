"""What commands do to the terminal they run in."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tests.waiting import LIMIT_S

# A shell that gives a job the terminal, or does not, and tells how the job ended, or that it was stopped.
_SHELL = """
import contextlib, os, signal, sys
job = os.fork()
with contextlib.suppress(PermissionError):  # the job has done so itself, and runs its program already
    os.setpgid(job, job)
if job == 0:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
if sys.argv[1] == "foreground":
    os.tcsetpgrp(0, job)
_, status = os.waitpid(job, os.WUNTRACED)
if os.WIFSTOPPED(status):
    os.kill(job, signal.SIGKILL)
print("stopped" if os.WIFSTOPPED(status) else f"ended {os.waitstatus_to_exitcode(status)}")
"""
_JOB = """
import os, sys, termios, time
while os.tcgetpgrp(0) != os.getpgrp() and {waits}:
    time.sleep(0.001)
from specgrove.cli.terminal import without_echo
def echoes():
    return bool(termios.tcgetattr(0)[3] & termios.ECHO)
with without_echo():
    within = echoes()
sys.exit(2 * within + echoes())
"""


@pytest.mark.parametrize(("place", "end"), [("foreground", "ended 1"), ("background", "ended 3")])
def test_keys_do_not_show_and_a_job_in_the_background_is_not_stopped(place: str, end: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _SHELL, place, _JOB.format(waits=place == "foreground")]
    done = subprocess.run(
        ["setsid", "--ctty", *command], stdin=theirs, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False
    )
    os.close(ours)
    os.close(theirs)
    assert done.stdout.strip() == end
