"""``specgrove serve`` with made-up services, as a process: ``python -m tests.cli.fake_services serve ...``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import specgrove.cli.suites
import specgrove.suite.processes
from specgrove.cli import main
from specgrove.suite.supervisor import ProcessSpec


def _fakes(config: object, addresses: Mapping[str, str], local_address: str | None = None) -> tuple[ProcessSpec, ...]:
    return tuple(ProcessSpec(name, "tests.fake_router", ("--address", address)) for name, address in addresses.items())


def use_fakes(replace: Callable[[Any, str, Any], None]) -> None:
    """``replace`` is ``setattr``, or that of a ``pytest.MonkeyPatch``."""
    replace(specgrove.suite.processes, "process_specs", _fakes)
    replace(specgrove.cli.suites, "check_model", lambda *_, **__: None)
    replace(specgrove.cli.suites, "chosen_ssms", lambda asked, *_, **__: tuple(asked or ("lookup", "demo")))
    replace(specgrove.cli.suites, "model_folder", lambda llm, console, cache_dir, quantization: Path("/models") / llm)


if __name__ == "__main__":
    use_fakes(setattr)
    sys.exit(main(sys.argv[1:]))
