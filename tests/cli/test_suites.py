"""From a command line to the services' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from specgrove.cli import suites
from specgrove.cli.arguments import parser
from specgrove.serve import SuiteConfig, process_specs


class NoSuite:
    """Remembers what it was made of."""

    config: SuiteConfig

    def __init__(self, config: SuiteConfig, **_: object) -> None:
        NoSuite.config = config

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


def test_where_models_run_is_said_to_both_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "Suite", NoSuite)
    monkeypatch.setattr(suites, "model_folder", lambda *_: Path("/model"))
    flags = ("--device", "cpu", "--gpu-kernels", "off")
    with suites.started_suite(parser().parse_args(["serve", *flags, "--kv-memory", "1GiB"]), address=None):
        pass
    addresses = {name: f"unix:/{name}" for name in ("llm_service", "ssm_service", "router")}
    llm, ssm, router = process_specs(NoSuite.config, addresses)
    assert (*flags, "--kv-memory", "1GiB") == llm.arguments[-6:]
    assert flags == ssm.arguments[-4:]
    assert not set(flags) & set(router.arguments)
