"""``--health-address`` of the services: probes are answered from before a model is loaded, and say the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import llm_service.__main__ as llm_main
import ssm_service.__main__ as ssm_main
from router import app as router_app
from router.__main__ import config_of
from specgrove.settings import SuiteSettings, settings_of
from specgrove.suite.start_checks import check_settings
from tests.waiting import LIMIT_S

SERVING, NOT_SERVING = (health_pb2.HealthCheckResponse.ServingStatus.Value(name) for name in ("SERVING", "NOT_SERVING"))


class Looked(ValueError):  # noqa: N818
    """In the place of all that would follow."""


def statuses_at(address: str, *names: str) -> list[int]:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return [
            stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=LIMIT_S, wait_for_ready=True).status
            for name in names
        ]


def looking_at(address: str, name: str, seen: list[list[int]]) -> Callable[..., Any]:
    """In the place of loading, in the thread that loads."""

    def load(*_: object) -> None:
        seen.append(statuses_at(address, name, "liveness"))
        raise Looked("looked")

    return load


@pytest.mark.parametrize(
    ("main", "name", "loads", "more"),
    [
        (llm_main, "specgrove.v1.LlmService", "check_model", ()),
        (llm_main, "specgrove.v1.LlmService", "check_model", ("--tensor-parallel", "2")),
        (ssm_main, "specgrove.v1.SsmService", "check_models", ("--ssm", "lookup")),
    ],
    ids=["llm", "llm of two ranks", "ssm"],
)
def test_a_service_that_loads_is_alive_and_not_ready(
    main: Any, name: str, loads: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = f"unix:{tmp_path}/health.sock", list[list[int]]()
    monkeypatch.setattr(main, loads, looking_at(address, name, seen))
    monkeypatch.setattr(main, "set_up_logging", lambda *_: None)
    words = ["--health-address", address, "--address", f"unix:{tmp_path}/main.sock"]
    monkeypatch.setattr("sys.argv", ["service", *words, *more])
    assert main.main() == 1
    assert seen == [[NOT_SERVING, SERVING]]


async def test_a_router_without_an_llm_service_is_alive_and_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, seen = f"unix:{tmp_path}/health.sock", list[list[int]]()
    look = looking_at(address, router_app.SERVICE_NAME, seen)

    async def serve_until_signal(server: Any, running: Any, **_: Any) -> None:
        running.close()
        look()

    monkeypatch.setattr(router_app, "serve_until_signal", serve_until_signal)
    config = config_of(["--llm", "127.0.0.1:1", "--health-address", address, "--address", f"unix:{tmp_path}/main.sock"])
    with pytest.raises(Looked):
        await router_app.serve(config)
    assert seen == [[NOT_SERVING, SERVING]]


def test_in_a_suite_it_is_the_routers_whose_health_is_that_of_all() -> None:
    from specgrove.cli.arguments import parser

    settings = settings_of(parser().parse_args(["serve", "--health-address", "127.0.0.1:50050"]))
    assert settings.arguments("router") == ("--health-address", "127.0.0.1:50050")
    assert settings.arguments("llm") == settings.arguments("ssm") == ()
    same = SuiteSettings({("router", name): "127.0.0.1:50050" for name in ("health-address", "http-address")})
    with pytest.raises(ValueError, match="--health-address and --http-address are the same"):
        check_settings(same, None)
