"""Builds the images on a machine that reaches no registry of images: `python -m tests.k8s.local_images`. For the test that runs them.

The base image is a `debootstrap` tree under the name that the Containerfile has in FROM. Packages come from where this machine's pip
and apt take them: pip's settings go in as a secret, and local folders that they name as volumes, so none of it stays in an image.
Needs root, podman, debootstrap and a Debian mirror. With `--variant cuda` that tree stands in for NVIDIA's images, with this machine's
CUDA toolkit; torch for CUDA is fetched (3 GB), and 25 GB of disk are needed while it builds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from tools.build_images import VARIANTS

BASE = "docker.io/library/debian:bookworm-slim"
MIRROR = "http://deb.debian.org/debian"
ROOT = Path(__file__).parents[2]
# What the slim variant of Debian's image has not either.
_LEFT_OUT = (
    "var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*",
    *(f"usr/share/{name}/*" for name in ("doc", "info", "lintian", "locale", "man")),
)  # fmt: skip
_PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Small virtual machines refuse the limits that podman asks for by default, and have neither systemd's cgroups nor bridges.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""
_CA = "/run/secrets/ca.pem"
_TOOLS = ("podman", "runc", "debootstrap")


def missing_tools() -> list[str]:
    """What has to be installed first; `root` where that is what is missing."""
    found = os.get_exec_path()
    missing = [t for t in _TOOLS if not any((Path(folder) / t).exists() for folder in [*found, "/usr/sbin"])]
    return missing if os.getuid() == 0 else [*missing, "root"]


def podman_environment(folder: Path) -> dict[str, str]:
    """The environment for podman's commands; its configuration is written into ``folder``."""
    path = folder / "containers.conf"
    path.write_text(CONTAINERS_CONF)
    return {**os.environ, "CONTAINERS_CONF": str(path)}


def has_image(name: str, environment: Mapping[str, str]) -> bool:
    return subprocess.run(["podman", "image", "exists", name], env=environment, check=False).returncode == 0


def make_base(environment: Mapping[str, str]) -> None:
    """Debian's smallest tree as ``BASE``, unless such an image is there. About a minute."""
    if has_image(BASE, environment):
        return
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["debootstrap", "--variant=minbase", "bookworm", folder, MIRROR], check=True)
        left_out = [f"--exclude=./{pattern}" for pattern in _LEFT_OUT]
        tree = subprocess.Popen(["tar", "-C", folder, "-c", *left_out, "."], stdout=subprocess.PIPE)
        with tree:
            subprocess.run(
                ["podman", "import", "--change", _PATH, "-", BASE], stdin=tree.stdout, env=environment, check=True
            )
        if tree.returncode != 0:
            raise RuntimeError(f"tar ended with {tree.returncode}")


def make_cuda_bases(environment: Mapping[str, str]) -> None:
    """``BASE`` as NVIDIA's base image, and with the toolkit of this machine's nvcc as the one for builds. Raises ``RuntimeError``."""
    nvcc = shutil.which("nvcc", path=f"/usr/local/cuda/bin{os.pathsep}{os.environ['PATH']}")
    if nvcc is None:
        raise RuntimeError("the variant for CUDA needs nvcc, which is not on PATH")
    toolkit = Path(nvcc).resolve().parents[1]
    names = VARIANTS["cuda"]
    path = "ENV PATH=/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    files = {
        names["BASE"]: (f"FROM {BASE}\n{path}", "/var/empty"),
        names["BUILDER_BASE"]: (f"FROM {names['BASE']}\nCOPY . /usr/local/cuda/\n", str(toolkit)),
    }
    for name, (text, context) in files.items():
        Path(context).mkdir(exist_ok=True)
        command = ["podman", "build", "--pull=never", "--tag", name, "--file", "-", context]
        subprocess.run(command, input=text, text=True, env=environment, check=True)


def pip_settings(listed: str) -> tuple[str, list[Path]]:
    """From what `pip config list` prints: a pip.conf for the build, and the local folders that it names."""
    taken: dict[str, str] = {}
    for line in listed.splitlines():
        match = re.fullmatch(
            r"(?:global|:env:)\.(index-url|extra-index-url|find-links|trusted-host|proxy|cert)='(.*)'", line
        )
        if match is not None:
            taken[match[1]] = match[2].replace("\\n", " ")
    if "cert" in taken:
        taken["cert"] = _CA
    names = " ".join(taken.get(key, "") for key in ("index-url", "extra-index-url", "find-links")).split()
    paths = [Path(name.removeprefix("file://")) for name in names if name.startswith(("/", "file://"))]
    folders = [path.parent if path.name == "simple" else path for path in paths]  # an index's files lie beside it
    return "[global]\n" + "".join(f"{key} = {value}\n" for key, value in taken.items()), folders


def pip_config() -> str:
    """What this machine's pip is told, a line each."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def build_options(folder: Path, variant: str) -> list[str]:
    """What podman needs to build here. The secret's file is written into ``folder``."""
    settings, folders = pip_settings(pip_config())
    if variant == "cuda":  # pip would take a `+cpu` for newer than the same version without
        folders = [path for path in folders if not _has_torch(path)]
        settings = "".join(line for line in settings.splitlines(keepends=True) if not line.startswith("find-links"))
    (folder / "pip.conf").write_text(settings)
    options = ["--network", "host", "--secret", f"id=pip.conf,src={folder / 'pip.conf'}"]
    if f"cert = {_CA}" in settings:
        options += ["--secret", f"id=ca.pem,src={os.environ.get('PIP_CERT', '/etc/ssl/certs/ca-certificates.crt')}"]
    options += [word for path in folders for word in ("--volume", f"{path}:{path}:ro")]
    if any(_has_torch(path) for path in folders):
        options += ["--build-arg", "TORCH_INDEX_URL="]  # torch's own index is not needed, and may be out of reach
    return options


def _has_torch(folder: Path) -> bool:
    return next(folder.glob("torch-*+cpu-*.whl"), None) is not None


def build_images(environment: Mapping[str, str], services: Iterable[str] = (), variant: str = "cpu") -> None:
    """All images of a variant, or some; layers that are there already are used again."""
    with tempfile.TemporaryDirectory() as folder:
        options = build_options(Path(folder), variant)
        chosen = ["--services", *services] if services else []
        subprocess.run(
            [
                sys.executable,
                "-m",
                "tools.build_images",
                "--builder",
                "podman",
                "--variant",
                variant,
                *chosen,
                "--",
                *options,
            ],
            cwd=ROOT,
            env=environment,
            check=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Builds the images where no registry is reached.")
    parser.add_argument("--variant", choices=VARIANTS, default="cpu")
    parser.add_argument("services", nargs="*", metavar="SERVICE", help="default: all")
    arguments = parser.parse_args()
    if missing := missing_tools():
        sys.exit(f"local_images: error: this needs {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        environment = podman_environment(Path(folder))
        make_base(environment)
        if arguments.variant == "cuda":
            make_cuda_bases(environment)
        build_images(environment, arguments.services, arguments.variant)


if __name__ == "__main__":
    main()
