"""A network of its own for processes: addresses that pages write out are free there, whatever else runs on the machine.

It needs no root where Linux lets users make namespaces. Nothing outside it can be reached from it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.waiting import LIMIT_S, wait_until

_HOLDER = "ip link set lo up && echo up && exec cat"


class PrivateNetwork:
    """With only a loopback device, until ``close``."""

    def __init__(self) -> None:
        """Raises ``OSError`` where namespaces can't be made here."""
        words = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", _HOLDER]
        missing = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
        if missing:
            raise OSError(f"not on this machine: {', '.join(missing)}")
        self._holder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "up\n":
            raise OSError(f"no network namespace: {self._holder.communicate()[1].strip()}")

    def _words(self, line: str) -> list[str]:
        into = ["nsenter", f"--target={self._holder.pid}", "--user", "--net", "--preserve-credentials"]
        return [*into, "bash", "-c", line]

    def run(
        self, line: str, folder: Path, environment: Mapping[str, str], *, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """A line for the shell, to its end; ``stdout`` has both of its outputs."""
        return subprocess.run(
            self._words(line), cwd=folder, env=os.environ | environment, input=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=5 * LIMIT_S,
        )  # fmt: skip

    def runs(self, line: str, folder: Path, environment: Mapping[str, str]) -> str:
        """What a line that has to succeed prints; who asks there is told to say hi."""
        ended = self.run(line, folder, environment, stdin="Say hi.\n")
        assert ended.returncode == 0, f"{line}\n{ended.stdout}"
        return ended.stdout

    def started(self, words: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
        """A program that runs on; its output is a pipe."""
        return subprocess.Popen(
            self._words(f"exec {shlex.join(words)}"),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def server(self, line: str, folder: Path, environment: Mapping[str, str], ready: str) -> Iterator[Path]:
        """Within the block a command runs, and has printed ``ready``; the file has all that it prints. SIGTERM ends it, with code 0."""
        log = folder / f"{abs(hash(line))}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                self._words(f"exec {line}"), cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            wait_until(lambda: ready in log.read_text() or process.poll() is not None)
            assert process.poll() is None, f"{line}: code {process.returncode}\n{log.read_text()}"
            yield log
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT_S) == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Ends it; processes that are left in it keep it."""
        self._holder.communicate()


def quoted(program: str) -> str:
    """A program of Python for the shell."""
    return f"python -c {shlex.quote(program)}"


def networks() -> Iterator[PrivateNetwork]:
    """One, for fixtures. Skips the test where namespaces can't be made here."""
    try:
        made = PrivateNetwork()
    except OSError as error:
        pytest.skip(str(error))
    yield made
    made.close()
