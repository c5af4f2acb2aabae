"""The chat page's process, a gRPC client of this router: started when somebody first looks, ended with the router. Used by ``page``.

A process of its own, because importing Gradio takes seconds and drawing takes time, neither of which other clients' streams may wait
for. Invariant: it ends when the router does, however that happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable

from specgrove.machine.low_priority import lower_priority
from specgrove.machine.owned_folders import temporary_folder

logger = logging.getLogger(__name__)

MODULE = "specgrove.web"
_SOCKET = "page.sock"
_END_TIMEOUT_S = 3.0
# A page that has ended by itself is not started again before so long.
_PAUSE_S = 10.0


class PageProcess:
    """One per router, and at most one process at a time."""

    def __init__(self, router_address: Callable[[], str]) -> None:
        """``router_address`` is asked when the process starts."""
        self._router_address = router_address
        self._folder = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self.socket_path = ""
        """Where it listens, once it was started."""

    @property
    def is_running(self) -> bool:
        """Started, and not ended; it may not listen yet."""
        return self._process is not None and self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """It has ended by itself a short time ago."""
        is_ended = self._process is not None and self._process.poll() is not None
        return is_ended and time.monotonic() - self._started_s < _PAUSE_S

    @property
    def pid(self) -> int | None:
        """The running process's; ``None`` where none runs."""
        return self._process.pid if self._process is not None and self.is_running else None

    def start(self) -> None:
        """Returns at once."""
        if self._process is None:
            folder = self._folder.enter_context(temporary_folder("specgrove-page-", socket_names=(_SOCKET,)))
            self.socket_path = f"{folder}/{_SOCKET}"
        elif self._process.returncode is not None:
            logger.warning("the chat page had ended with exit code %d", self._process.returncode)
        self._started_s = time.monotonic()
        # The kernel ends it with the thread that starts it: the router's main one.
        command = [sys.executable, "-m", "specgrove.suite.supervised", str(os.getpid()), MODULE]
        arguments = ["--address", f"unix:{self.socket_path}", "--router", self._router_address()]
        self._process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, start_new_session=True)
        lower_priority(self._process.pid)
        logger.info("starting the chat page")

    async def stop(self) -> None:
        """Safe to call twice."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                await asyncio.to_thread(process.wait, _END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.close()
