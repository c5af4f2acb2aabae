"""What is said while nothing comes."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import rich.console

from specgrove.cli import streaming
from specgrove.client.output import Chunk, OutputToken
from tests.waiting import wait_until

NOTICE = "waiting for the first token ...\n"


def test_a_long_wait_is_told_once_and_not_in_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, shown = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(streaming, "NOTICE_AFTER_S", 0.0)

    class SlowClient:
        def generate(self, *_: object, **__: object) -> Iterator[Chunk]:
            wait_until(lambda: errors.getvalue() == NOTICE)
            yield Chunk((OutputToken(1, "one"),), "one")

    client: Any = SlowClient()
    assert len(list(streaming.streamed(client, rich.console.Console(file=shown), "hi", {}))) == 1
    assert (errors.getvalue(), shown.getvalue()) == (NOTICE, "one\n")


def test_a_wait_that_has_ended_is_not_told() -> None:
    wait = streaming._Wait()
    wait.end()
    wait._begin()
    assert not wait._status._live.is_started


def test_a_stream_that_stalls_is_told_once_and_not_in_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, shown = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(streaming, "STALL_AFTER_S", 0.01)

    class StallingClient:
        def generate(self, *_: object, **__: object) -> Iterator[Chunk]:
            for word in ("one", "two", "three"):
                yield Chunk((OutputToken(1, word),), word)
                wait_until(lambda: streaming.STALL_NOTICE in errors.getvalue().replace("\n", " "))

    client: Any = StallingClient()
    assert len(list(streaming.streamed(client, rich.console.Console(file=shown), "hi", {}))) == 3
    assert errors.getvalue().replace("\n", " ").count(streaming.STALL_NOTICE) == 1
    assert shown.getvalue() == "onetwothree\n"
