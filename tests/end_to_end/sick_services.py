"""The LLM and the SSM service with an illness to come: ``python -m tests.end_to_end.sick_services SERVICE OPTIONS`` (or by ``sick_specs``).

What they fall ill with, and after how many steps, stands in a file of the service's name in ``FOLDER_VARIABLE``'s folder; it is read once.
An LLM service also dies of each prompt that holds ``POISON``.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from llm_service.verifier import VerifierEngine
from specgrove.loop.works import VerifyWork
from specgrove.suite import processes as suite_module
from specgrove.suite.processes import Suite, SuiteConfig, process_specs
from specgrove.suite.supervisor import ProcessSpec
from ssm_service.pool import DrafterPool

ROOT = Path(__file__).parent.parent.parent
FOLDER_VARIABLE = "SPECGROVE_TEST_ILLNESSES"
POISON = 200

_ILLNESSES: dict[str, Callable[[], Any]] = {
    "sleeps": lambda: time.sleep(3600),
    "dies": lambda: os._exit(9),
    "keeps the interpreter": lambda: ctypes.PyDLL(None).sleep(3600),
}
_process_specs = process_specs


def sick_specs(*args: Any) -> tuple[ProcessSpec, ...]:
    """``specgrove.suite.processes.process_specs``, with this module in the place of both services'."""
    return tuple(
        spec if spec.module == "router" else replace(spec, module=__name__, arguments=(spec.module, *spec.arguments))
        for spec in _process_specs(*args)
    )


@dataclass(frozen=True)
class Hospital:
    """A suite whose services fall ill when they are told to."""

    suite: Suite
    folder: Path

    def fall_ill(self, service: str, illness: str, num_steps: int) -> None:
        """The service, or the first of its replicas that makes a step, falls ill at the step after ``num_steps`` more."""
        unfinished = self.folder / "unfinished"
        unfinished.write_text(f"{num_steps} {illness}")
        unfinished.rename(self.folder / service)


@contextlib.contextmanager
def hospital_of(config: SuiteConfig, folder: Path) -> Iterator[Hospital]:
    """The suite, with ``folder`` for its illnesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(suite_module, "process_specs", sick_specs)
        with Suite(config) as suite:
            yield Hospital(suite, folder)


def _will_fall_ill(engine: Any, file: Path) -> None:
    step = engine.step
    waiting: list[tuple[int, str]] = []

    def step_or_fall_ill(self: Any) -> Any:
        if file.exists():
            num_steps, _, illness = file.read_text().partition(" ")
            file.unlink()
            waiting.append((int(num_steps), illness))
        if waiting:
            num_steps_left, illness = waiting.pop()
            if num_steps_left == 0:
                _ILLNESSES[illness]()
            waiting.append((num_steps_left - 1, illness))
        return step(self)

    engine.step = step_or_fall_ill


def _dies_of_poison() -> None:
    add = VerifierEngine.add

    def add_or_die(self: VerifierEngine, item_id: int, work: VerifyWork) -> None:
        if work.session is not None and POISON in work.new_token_ids[: work.session.prompt_len]:
            os._exit(9)
        add(self, item_id, work)

    VerifierEngine.add = add_or_die  # type: ignore[method-assign]


if __name__ == "__main__":
    service = sys.argv.pop(1)
    _will_fall_ill(
        {"llm_service": VerifierEngine, "ssm_service": DrafterPool}[service], Path(os.environ[FOLDER_VARIABLE], service)
    )
    _dies_of_poison()
    sys.exit(importlib.import_module(f"{service}.__main__").main())
