"""An output as it comes: what the wait is for until the first token, then the text. Used by all commands that show one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import rich.console

from specgrove.cli.rendering import TokenPrinter, make_console
from specgrove.client import Client
from specgrove.client.arguments import Prompt
from specgrove.client.output import Chunk
from specgrove.client.wire import GenerateParams

NOTICE_AFTER_S = 2.0
"""How long nothing may happen before it is said what is waited for."""
STALL_AFTER_S = 5.0
"""The same, between tokens. Once in an output."""
STALL_NOTICE = (
    "no token comes: waiting for the router, whose LLM service may be starting again (`specgrove top` tells) ..."
)


def streamed(client: Client, console: rich.console.Console, prompt: Prompt, params: GenerateParams) -> Iterator[Chunk]:
    """Prints the output of one request, and yields its chunks. However it ends, the line is ended."""
    printer = TokenPrinter(console)
    asked = params.copy()
    asked["prompt_progress"] = True
    with contextlib.closing(client.generate(prompt, **asked)) as stream, _Wait() as wait, _Stall() as stall:
        try:
            for chunk in stream:
                if chunk.num_prompt_tokens_read is not None:
                    wait.show(f"reading the prompt: {chunk.num_prompt_tokens_read} tokens")
                    continue
                wait.end()
                stall.end()
                printer.write(chunk)
                yield chunk
                stall.begin()
        finally:
            wait.end()
            stall.end()
            printer.finish()


class _Stall:
    """Says on stderr, once, that no token comes any more. Between the parts of the output, it has a line of its own."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        self._changed = threading.Condition()
        self._waiting_since_s: float | None = None
        self._has_ended = False
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def begin(self) -> None:
        """A token has come, and the next one is waited for."""
        with self._changed:
            self._waiting_since_s = time.monotonic()

    def end(self) -> None:
        """It is there, or the output has ended."""
        with self._changed:
            self._waiting_since_s = None

    def _watch(self) -> None:
        with self._changed:
            while not self._has_ended:
                left_s = STALL_AFTER_S
                if self._waiting_since_s is not None:
                    left_s += self._waiting_since_s - time.monotonic()
                if left_s <= 0:
                    self._console.print(f"\n{STALL_NOTICE}", style="dim", markup=False)
                    return
                self._changed.wait(left_s)

    def __enter__(self) -> _Stall:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify()


class _Wait:
    """Says on stderr what is waited for, when it takes long: a spinner on a terminal, else one line."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        self._status = self._console.status("waiting for the router", spinner="dots")
        self._timer = threading.Timer(NOTICE_AFTER_S, self._begin)
        self._timer.daemon = True
        self._lock = threading.Lock()
        self._has_ended = False

    def show(self, message: str) -> None:
        """Something happens: says what."""
        self._status.update(message)

    def end(self) -> None:
        """The wait is over. Harmless when called again."""
        self._timer.cancel()
        with self._lock:
            if not self._has_ended:
                self._has_ended = True
                self._status.stop()

    def _begin(self) -> None:
        with self._lock:
            if self._has_ended:
                return
            if self._console.is_terminal:
                self._status.start()
            else:
                self._console.print("waiting for the first token ...", style="dim")

    def __enter__(self) -> _Wait:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
