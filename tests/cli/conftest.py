"""A made-up router for the commands that need a running suite."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgrove.cli import progress, streaming
from tests.fake_router import FakeRouter, running_router


@pytest.fixture
def fake_router(tmp_path: Path) -> Iterator[tuple[FakeRouter, str]]:
    """The fake and its address."""
    with running_router(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What commands say only where something takes long would depend on the machine: it is never said."""
    monkeypatch.setattr(streaming, "NOTICE_AFTER_S", threading.TIMEOUT_MAX)
    monkeypatch.setattr(progress, "SAME_WORK_INTERVAL_S", math.inf)
