"""The images themselves, built and run here as Kubernetes runs them: read-only, without rights, as user 65532."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Mapping

import pytest

from tests.k8s.containerfile import SHIPPED
from tests.k8s.local_images import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the first one builds the images, where nobody has before
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
AS_IN_A_POD = (
    "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--user=65532:65532", "--tmpfs=/tmp", "--network=host",
)  # fmt: skip


def _run(
    podman: Mapping[str, str], image: str, *arguments: str, entrypoint: str | None = None
) -> subprocess.CompletedProcess[str]:
    changed = [f"--entrypoint={entrypoint}"] if entrypoint else []
    command = ["podman", "run", "--rm", *AS_IN_A_POD, *changed, f"specgrove/{image}:{VERSION}", *arguments]
    return subprocess.run(command, env=podman, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image", SHIPPED)
def test_an_image_starts_its_service(podman: Mapping[str, str], image: str) -> None:
    done = _run(podman, image, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: python -m {image.replace('-', '_')}")


@pytest.mark.parametrize("image", SHIPPED)
def test_the_command_is_in_every_image(podman: Mapping[str, str], image: str) -> None:
    assert _run(podman, image, "--version", entrypoint="specgrove").stdout == f"specgrove {VERSION}\n"


@pytest.mark.parametrize("image", SHIPPED)
def test_an_image_holds_no_compiler_and_writes_only_where_it_should(podman: Mapping[str, str], image: str) -> None:
    script = (
        "for tool in cc gcc g++ cmake make nvcc; do command -v $tool; done; "
        "for folder in / /opt/specgrove /usr /home; do touch $folder/x 2>/dev/null && echo $folder; done; touch /tmp/x && id -u"
    )
    assert _run(podman, image, "-c", script, entrypoint="sh").stdout == "65532\n"


def test_the_routers_image_has_no_torch_and_says_so(podman: Mapping[str, str]) -> None:
    done = _run(podman, "router", "-c", "import torch", entrypoint="python")
    assert "ModuleNotFoundError: No module named 'torch'" in done.stderr
    done = _run(podman, "router", "serve", entrypoint="specgrove")
    assert done.stderr.startswith("specgrove: error: this needs torch")


@pytest.mark.parametrize("image", ["ssm-service", "llm-service"])
def test_the_kernels_of_an_image_load(podman: Mapping[str, str], image: str) -> None:
    program = "import torch; from specgrove.kernels.threads import get_isa; print(torch.__version__, get_isa())"
    done = _run(podman, image, "-c", program, entrypoint="python")
    assert done.returncode == 0, done.stderr
    assert "+cpu" in done.stdout
