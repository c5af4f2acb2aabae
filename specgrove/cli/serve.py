"""``specgrove serve``: the suite in the foreground until a signal.

On stderr it says where it listens, and what the services warn of; all of their log, or a line per request, where that is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from types import FrameType

from specgrove.addresses import is_unix
from specgrove.cli.ending import ENDING_SIGNALS
from specgrove.cli.rendering import make_console
from specgrove.cli.suites import given_settings, started_suite
from specgrove.client import Client
from specgrove.settings import SECTIONS, SuiteSettings, setting_at
from specgrove.settings.printed import config_schema, config_text
from specgrove.suite.processes import Suite

_SIGNAL_POLL_S = 0.1


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 after a signal, when all services have ended. A second signal doesn't wait for them to drain."""
    if arguments.print_config_schema:
        print(json.dumps(config_schema(), indent=2))
        return 0
    settings = given_settings(arguments)
    if arguments.print_config:
        print(config_text(settings), end="")
        return 0
    console = make_console(stderr=True, quiet=arguments.quiet)
    if not arguments.verbose:
        settings = _warnings_only(settings)
    start = started_suite(settings, settings["router", "address"], arguments, is_for_others=True)
    with _interrupted_by_signals(), start as suite:
        with Client(suite.local_address) as client:
            info = client.model_info()
        # A list, not a threading.Event: a handler that runs while this thread is inside the event's lock would wait for itself.
        received: list[int] = []

        def on_signal(number: int, frame: FrameType | None) -> None:
            received.append(number)
            if len(received) > 1:
                suite.kill()

        for number in (signal.SIGINT, *ENDING_SIGNALS):
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's
                signal.signal(number, on_signal)
        ssms = ", ".join(info.ssms) or "none"
        places = f"gRPC at {suite.address}{_http_place(settings)}{_metrics_place(suite)}"
        console.print(f"serving {info.model} ({info.dtype}), SSMs: {ssms}, {places}; Ctrl-C stops", style="bold")
        while not received:
            suite.check()
            time.sleep(_SIGNAL_POLL_S)
        console.print(
            "stopping the services when the requests under way have ended; once more to stop at once", style="dim"
        )
    return 0


def _warnings_only(settings: SuiteSettings) -> SuiteSettings:
    """Lowers the log level of services that have the default one, even if it was given: a file by ``--print-config`` gives it."""
    places = [(section, "log-level") for section in SECTIONS]
    return SuiteSettings({place: "WARNING" for place in places if settings[place] == setting_at(place).default}).over(
        settings
    )


def _http_place(settings: SuiteSettings) -> str:
    """Where OpenAI's clients are to be pointed."""
    address = settings["router", "http-address"]
    if address is None:
        return ""
    scheme = "https" if settings["router", "tls-certificate"] is not None else "http"
    return f", HTTP at {address if is_unix(address) else f'{scheme}://{address}/v1'}"


def _metrics_place(suite: Suite) -> str:
    """Where the router's are; the others' follow."""
    address = suite.metrics_addresses().get("router")
    return "" if address is None else f", metrics at http://{address}/metrics"


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Until the services run, signals end the start. Shells make background jobs ignore SIGINT: this one doesn't."""
    numbers = (signal.SIGINT, *ENDING_SIGNALS)
    previous = {number: signal.getsignal(number) for number in numbers}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
