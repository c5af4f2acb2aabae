"""Commands that are told to end: by SIGTERM, as `timeout` and supervisors do, or because their terminal is closed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from specgrove.cli import generate, main
from specgrove.cli.ending import ended_by_signals


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_command_ends_in_order(number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    signals_before, ended = signal.signal(number, signal.SIG_DFL), []  # behind nohup SIGHUP is ignored

    @contextlib.contextmanager
    def suite(*_: object, **__: object) -> Iterator[None]:
        try:
            signal.raise_signal(number)
            yield
        finally:
            ended.append(number)

    monkeypatch.setattr(generate, "connected", suite)
    try:
        with pytest.raises(SystemExit) as exit_of:
            main(["generate", "hi"])
        assert (exit_of.value.code, ended) == (code, [number])
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, signals_before)


def test_what_is_ignored_stays_ignored() -> None:
    """``nohup`` has it so."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
