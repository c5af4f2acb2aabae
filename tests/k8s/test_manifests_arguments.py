"""Each pod's command line and settings are ones that its service takes, and its end lasts as long as they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_service.arguments import parse_arguments as llm_config_of
from router.__main__ import config_of as router_config_of
from specgrove.cli.arguments import parser as command_parser
from specgrove.settings import rules
from specgrove.settings.config_file import read_config_file
from ssm_service.__main__ import parse_arguments as ssm_config_of
from tests.k8s.manifests import OVERLAYS, Manifest, Rendered, Workload, rendered
from tools.k8s_plain import K8S

PARSERS: dict[str, Callable[[list[str]], Any]] = {
    "router": router_config_of,
    "llm": llm_config_of,
    "ssm": ssm_config_of,
}
CONFIG = "/etc/specgrove/suite.yaml"


@pytest.fixture(params=OVERLAYS)
def suite(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


@pytest.fixture
def config(suite: Rendered, tmp_path: Path) -> Path:
    """The suite.yaml that the pods mount, as a file."""
    (found,) = suite.of_kind("ConfigMap")
    path = tmp_path / "suite.yaml"
    path.write_text(found["data"]["suite.yaml"])
    return path


def arguments_of(workload: Workload, config: Path) -> list[str]:
    """What its service is started with, with the mounted files where they lie here."""
    places = {CONFIG: str(config)}
    for volume in workload.spec["volumes"]:
        if "secret" in volume:
            (mount,) = [mount for mount in workload.main["volumeMounts"] if mount["name"] == volume["name"]]
            places[mount["mountPath"]] = str(secret_in(config.parent / volume["name"]))
    arguments = workload.main["args"]
    for there, here in places.items():
        arguments = [argument.replace(f"={there}", f"={here}") for argument in arguments]
    return list(arguments)


def secret_in(folder: Path) -> Path:
    """A folder with the files of all Secrets that are mounted: keys of clients."""
    folder.mkdir(exist_ok=True)
    (folder / "keys").write_text("a-key\n")
    return folder


def config_of(workload: Workload, config: Path) -> Any:
    """What its service makes of its command line and settings, where it has the GPUs that it asks for; it exits with what is wrong."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "may_have_gpu", lambda: "nvidia.com/gpu" in workload.main["resources"]["limits"])
        return PARSERS[workload.component](arguments_of(workload, config))


def by_its_own_parser(suite: Rendered) -> list[Workload]:
    """Whose image's own entry point runs."""
    return [workload for workload in suite.workloads if "command" not in workload.main]


def test_services_take_their_command_lines_and_settings(suite: Rendered, config: Path) -> None:
    for workload in by_its_own_parser(suite):
        made = config_of(workload, config)
        assert made.address == f"0.0.0.0:{workload.ports['grpc']}"
        assert made.health_address == f"0.0.0.0:{workload.ports['health']}"
        assert made.log_format == "json"


def test_a_setting_that_there_is_not_fails_the_start(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    suite = rendered("cpu-demo")
    config = tmp_path / "suite.yaml"
    config.write_text(suite.of_kind("ConfigMap")[0]["data"]["suite.yaml"] + "  kv-slot: 8\n")
    for workload in by_its_own_parser(suite):
        with pytest.raises(SystemExit):
            config_of(workload, config)
        assert "there is no setting ssm.kv-slot; did you mean ssm.kv-slots?" in capsys.readouterr().err


def test_the_settings_are_also_those_of_specgrove_serve(suite: Rendered, config: Path) -> None:
    assert read_config_file(config, is_for_suite=True).given


def test_settings_that_the_page_names_are_settings(tmp_path: Path) -> None:
    """A file with each of them, unset."""
    page = (K8S.parent / "docs" / "kubernetes.md").read_text()
    named = set(re.findall(r"`(router|llm|ssm)\.([a-z][a-z-]+)[`:]", page))
    assert len(named) > 15
    sections: dict[str, dict[str, None]] = {section: {} for section, _ in named}
    for section, name in named:
        sections[section][name] = None
    config = tmp_path / "suite.yaml"
    config.write_text(yaml.safe_dump(sections))
    read_config_file(config, is_for_suite=False)


def test_what_runs_before_the_llm_fetches_its_model(suite: Rendered, config: Path) -> None:
    for workload in suite.workloads:
        for container in workload.spec.get("initContainers", ()):
            init, dashes, program, *words = container["command"]
            assert (init, dashes, program) == ("tini", "--", "specgrove")
            given = command_parser().parse_args([word.replace(CONFIG, str(config)) for word in words])
            assert (given.command, given.action, given.config) == ("models", "download", config)


def test_pods_live_until_they_have_drained(suite: Rendered, config: Path) -> None:
    for workload in by_its_own_parser(suite):
        drain_s = config_of(workload, config).drain_timeout_s
        *_, pre_stop_s = (0, *map(float, pre_stop_of(workload.main)))
        assert workload.spec["terminationGracePeriodSeconds"] >= pre_stop_s + drain_s + 10, workload.name


def pre_stop_of(container: Manifest) -> list[str]:
    """The seconds that it sleeps."""
    handler = container.get("lifecycle", {}).get("preStop")
    return [] if handler is None else [handler["exec"]["command"][1]]


def test_a_rolling_update_of_routers_cuts_off_no_request(suite: Rendered, config: Path) -> None:
    (router,) = suite.of_component("router")
    made = config_of(router, config)
    assert made.max_request_s <= made.drain_timeout_s
    assert router.main["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "10"]
    assert router.owner["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
