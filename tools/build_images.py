"""Builds the container images with whatever builder there is: docker buildx, podman or buildah. Called by `make images`.

Each service of k8s/images/Containerfile becomes REGISTRY/specgrove/NAME:VERSION, and is pushed where that is asked for. The variant for
GPUs has `-cuda` behind the version; the router runs no model, so there is one router for all variants. Standard library only.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVICES = ("router", "ssm-service", "llm-service")
BUILDERS = ("docker", "podman", "buildah")
CONTAINERFILE = "k8s/images/Containerfile"
_CUDA_IMAGE = "docker.io/nvidia/cuda:13.0.2"
# PyPI's torch is for this CUDA version; NVIDIA's images on Ubuntu 24.04 have Python 3.12.
VARIANTS: dict[str, dict[str, str]] = {
    "cpu": {},
    "cuda": {
        "BASE": f"{_CUDA_IMAGE}-base-ubuntu24.04",
        "BUILDER_BASE": f"{_CUDA_IMAGE}-devel-ubuntu24.04",
        "CUDA": "ON",
        "TORCH_BUILD": "",
        "TORCH_INDEX_URL": "",
    },
}


@dataclass(frozen=True)
class Wanted:
    """What is asked for. ``registry`` goes before the names; ``options`` go to the builder as they are."""

    variant: str
    version: str
    commit: str
    registry: str = ""
    options: tuple[str, ...] = ()

    def variant_of(self, service: str) -> str:
        return "cpu" if service == "router" else self.variant

    def tag(self, service: str) -> str:
        """The image's whole name."""
        variant = self.variant_of(service)
        suffix = "" if variant == "cpu" else f"-{variant}"
        name = f"specgrove/{service}:{self.version}{suffix}"
        return f"{self.registry.rstrip('/')}/{name}" if self.registry else name


def build_command(builder: str, wanted: Wanted, service: str) -> list[str]:
    """One image's build."""
    start = {
        "docker": ["docker", "buildx", "build", "--load"],
        "podman": ["podman", "build", "--layers"],
        "buildah": ["buildah", "build", "--layers"],
    }[builder]
    given = {**VARIANTS[wanted.variant_of(service)], "VERSION": wanted.version, "COMMIT": wanted.commit}
    arguments = [word for name, value in given.items() for word in ("--build-arg", f"{name}={value}")]
    return [
        *start, "--file", CONTAINERFILE, "--target", service, "--tag", wanted.tag(service), *arguments, *wanted.options, ".",
    ]  # fmt: skip


def find_builder(asked: str | None, answers: Callable[[list[str]], bool]) -> str:
    """The first of ``BUILDERS`` that answers, or the one asked for. Raises ``ValueError`` where there is none."""
    probes = {"docker": ["docker", "buildx", "ls"], "podman": ["podman", "info"], "buildah": ["buildah", "info"]}
    for builder in (asked,) if asked else BUILDERS:
        if answers(probes[builder]):
            return builder
    if asked:
        raise ValueError(f"{asked} is not installed or does not answer ({' '.join(probes[asked])} fails)")
    raise ValueError("no builder of images is here: install docker (with buildx), podman or buildah")


def _answers(command: list[str]) -> bool:
    return shutil.which(command[0]) is not None and _quietly(command) is not None


def _quietly(command: list[str]) -> str | None:
    """What a command prints, or ``None`` where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _commit() -> str:
    """HEAD's, marked where the checkout differs from it."""
    head = _quietly(["git", "rev-parse", "HEAD"])
    if head is None:
        return "unknown"
    return f"{head}-dirty" if _quietly(["git", "status", "--porcelain", "--untracked-files=no"]) else head


def _size_mb(builder: str, tag: str) -> float:
    """Uncompressed, all layers."""
    command = {
        "docker": ["docker", "image", "inspect", "--format", "{{.Size}}", tag],
        "podman": ["podman", "image", "inspect", "--format", "{{.Size}}", tag],
        "buildah": ["buildah", "inspect", "--type", "image", "--format", "{{.Docker.Size}}", tag],
    }[builder]
    return int(_quietly(command) or 0) / 1e6


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Builds the container images of the services.")
    parser.add_argument("--variant", choices=VARIANTS, default="cpu", help="what the models run on")
    parser.add_argument("--registry", default="", metavar="HOST/PATH", help="goes before the names")
    parser.add_argument("--push", action="store_true", help="push to the registry afterwards")
    parser.add_argument("--builder", choices=BUILDERS, help="default: the first that answers")
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=SERVICES, metavar="NAME")
    parser.add_argument("options", nargs="*", metavar="-- OPTION", help="handed to the builder as they are")
    arguments = parser.parse_args(argv)
    if arguments.push and not arguments.registry:
        parser.error("--push needs --registry: where the images are to go")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """0, or the exit code of the command that failed."""
    arguments = _parse(argv)
    try:
        builder = find_builder(arguments.builder, _answers)
    except ValueError as error:
        print(f"build_images: error: {error}", file=sys.stderr)
        return 1
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    wanted = Wanted(arguments.variant, version, _commit(), arguments.registry, tuple(arguments.options))
    for service in arguments.services:
        print(f"==> {wanted.tag(service)} with {builder}", flush=True)
        commands = [build_command(builder, wanted, service)]
        if arguments.push:
            commands.append([builder, "push", wanted.tag(service)])
        for command in commands:
            if (code := subprocess.run(command, check=False).returncode) != 0:
                return code
    for service in arguments.services:
        print(f"{_size_mb(builder, wanted.tag(service)):8.0f} MB  {wanted.tag(service)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
