"""How `make images` builds: which builder it takes, what it tells it, and how machines without a registry build all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.k8s.local_images import build_options, pip_settings
from tools import build_images
from tools.build_images import SERVICES, Wanted, build_command, find_builder


def test_an_image_has_the_projects_version_and_commit() -> None:
    command = build_command("podman", Wanted("cpu", "1.2.3", "abc"), "router")
    assert command[:2] == ["podman", "build"]
    assert command[command.index("--tag") + 1] == "specgrove/router:1.2.3"
    assert command[command.index("--target") + 1] == "router"
    assert {"VERSION=1.2.3", "COMMIT=abc"} <= set(command)
    assert command[-1] == "."


def test_images_for_gpus_have_their_own_bases_and_tags_and_the_router_does_not() -> None:
    wanted = Wanted("cuda", "1.2.3", "abc", registry="registry.example/team/")
    assert [wanted.tag(service) for service in SERVICES] == [
        "registry.example/team/specgrove/router:1.2.3",
        "registry.example/team/specgrove/ssm-service:1.2.3-cuda",
        "registry.example/team/specgrove/llm-service:1.2.3-cuda",
    ]
    llm, router = (" ".join(build_command("docker", wanted, name)) for name in ("llm-service", "router"))
    assert "BASE=docker.io/nvidia/cuda:" in llm
    assert "-devel-" in llm
    assert "CUDA=ON" in llm
    assert "nvidia" not in router


def test_options_go_to_the_builder_as_they_are() -> None:
    command = build_command("buildah", Wanted("cpu", "1", "c", options=("--network", "host")), "router")
    assert command[-3:] == ["--network", "host", "."]


@pytest.mark.parametrize(
    ("here", "chosen"),
    [(("docker", "podman", "buildah"), "docker"), (("podman", "buildah"), "podman"), (("buildah",), "buildah")],
)
def test_the_first_builder_that_answers_is_taken(here: tuple[str, ...], chosen: str) -> None:
    assert find_builder(None, lambda command: command[0] in here) == chosen


def test_without_a_builder_it_is_said_what_to_install() -> None:
    with pytest.raises(ValueError, match="install docker"):
        find_builder(None, lambda command: False)
    with pytest.raises(ValueError, match="podman is not installed or does not answer"):
        find_builder("podman", lambda command: command[0] == "docker")


def test_pushing_needs_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_images.main(["--push"])
    assert "--push needs --registry" in capsys.readouterr().err


def test_a_builds_pip_takes_packages_from_where_this_machines_does() -> None:
    listed = (
        ":env:.find-links='/opt/wheels'\n"
        "global.cert='/etc/ssl/own.crt'\n"
        "global.constraint='/etc/constraints.txt'\n"
        "global.extra-index-url='file:///opt/mirror/simple https://index.example/simple'\n"
    )
    settings, folders = pip_settings(listed)
    assert settings.splitlines() == [
        "[global]",
        "find-links = /opt/wheels",
        "cert = /run/secrets/ca.pem",
        "extra-index-url = file:///opt/mirror/simple https://index.example/simple",
    ]
    assert folders == [Path("/opt/mirror"), Path("/opt/wheels")]


@pytest.mark.parametrize(("variant", "takes_wheels"), [("cpu", True), ("cuda", False)])
def test_torch_for_cuda_is_not_taken_from_where_this_machines_is(
    variant: str, takes_wheels: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip takes a `+cpu` for newer than the same version without."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl").touch()
    monkeypatch.setattr("tests.k8s.local_images.pip_config", lambda: f"global.find-links='{wheels}'\n")
    options = build_options(tmp_path, variant)
    assert (f"{wheels}:{wheels}:ro" in options) == takes_wheels
    assert ("find-links" in (tmp_path / "pip.conf").read_text()) == takes_wheels
    assert ("TORCH_INDEX_URL=" in options) == takes_wheels
