"""The SSM service as a process: how it ends."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from specgrove.serving.health import Health
from ssm_service import service
from ssm_service.__main__ import parse_arguments
from ssm_service.config import SERVICE_NAME
from tests.waiting import LIMIT_S


async def test_a_step_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, gate = threading.Event(), threading.Event()

    async def run_server(*arguments: Any, **settings: Any) -> None:
        """Ends at once, as after a signal."""

    def hang() -> None:
        hangs.set()
        gate.wait(LIMIT_S)

    class HangingLoop(service.StepLoop):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.call(hang)
            assert hangs.wait(LIMIT_S)

    monkeypatch.setattr(service, "run_server", run_server)
    monkeypatch.setattr(service, "StepLoop", HangingLoop)
    monkeypatch.setattr(service, "_STOP_TIMEOUT_S", 0.05)
    try:
        with pytest.raises(RuntimeError, match="the step under way has not ended"):
            await service.serve(parse_arguments(["--ssm", "lookup", "--threads", "1"]), Health([SERVICE_NAME]))
    finally:
        gate.set()
