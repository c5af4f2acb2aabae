"""A made-up router for the commands that need a running suite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_router import FakeRouter, running_router


@pytest.fixture
def fake_router(tmp_path: Path) -> Iterator[tuple[FakeRouter, str]]:
    """The fake and its address."""
    with running_router(tmp_path) as running:
        yield running
