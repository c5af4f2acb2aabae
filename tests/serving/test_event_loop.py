"""The loop that services run on."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

import pytest

from specgrove.serving import event_loop


async def _kind() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_services_run_on_uvloop() -> None:
    assert event_loop.run(_kind()) == "uvloop"


def test_without_uvloop_they_run_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    spec = importlib.util.find_spec(event_loop.__name__)
    assert spec is not None
    assert spec.loader is not None
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert without.run(_kind()).startswith("asyncio.")
