"""The sdist and the wheel: what is in them, and that a wheel answers elsewhere, without the repository and without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.compiled_already import compiler_for

ROOT = Path(__file__).parent.parent
PACKAGES = ("specgrove", "router", "llm_service", "ssm_service")
# Nothing is compressed: weights of 30 MB would take most of the time.
BUILD = """
import sys, zlib
compressing = zlib.compressobj
zlib.compressobj = lambda level, *more: compressing(0, *more)
from scikit_build_core import build
getattr(build, sys.argv[1])(sys.argv[2], {})
"""
BUILD_PURE = BUILD.replace("{}", '{"wheel.cmake": "false"}')
BUILD_FOR_CPUS = BUILD.replace("{}", '{"cmake.define.SPECGROVE_CUDA": "OFF"}')

pytest.importorskip("scikit_build_core")


def build(program: str, kind: str, folder: Path, source: Path = ROOT, **environment: str) -> Path:
    """An sdist or a wheel of ``source``, in ``folder``."""
    subprocess.run(
        [sys.executable, "-c", program, kind, str(folder)],
        cwd=source, env=os.environ | environment, check=True, capture_output=True,
    )  # fmt: skip
    (made,) = folder.iterdir()
    return made


def tracked(*paths: str) -> set[str]:
    """Files of the repository below ``paths``."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *paths],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing tells what belongs to it")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_sdist_has_all_that_a_build_and_the_tests_take(tmp_path: Path) -> None:
    with tarfile.open(build(BUILD, "build_sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert not tracked(*PACKAGES, "csrc", "tests", "docs", "pyproject.toml", "Makefile", "LICENSE") - names
    assert not [name for name in names if name.endswith(".so") or name.startswith((".ci/", "benchmarks/results/"))]


def test_the_wheel_has_the_packages_with_their_data_and_nothing_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(build(BUILD_PURE, "build_wheel", tmp_path)) as wheel:
        names = set(wheel.namelist())
    assert not tracked(*PACKAGES) - names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_wheel_made_of_the_sdist_answers_elsewhere(tmp_path: Path) -> None:
    """The CPU's kernels are compiled for it, but for what this checkout has compiled in the same way: minutes of the compiler's work."""
    (tmp_path / "sdist").mkdir()
    with tarfile.open(build(BUILD, "build_sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    for name in tracked("csrc"):
        assert (source / name).read_bytes() == (ROOT / name).read_bytes()
    (tmp_path / "wheel").mkdir()
    compiler, _ = compiler_for(source, tmp_path)
    wheel = build(BUILD_FOR_CPUS, "build_wheel", tmp_path / "wheel", source, CXX=str(compiler))
    with zipfile.ZipFile(wheel) as content:
        natives = [Path(name).name.partition(".")[0] for name in content.namelist() if name.endswith(".so")]
    assert "_native" in natives
    assert "_cuda_emulator" not in natives
    python = installed(wheel, tmp_path / "environment")
    (tmp_path / "elsewhere").mkdir()
    ended = subprocess.run(
        [python, "-m", "specgrove.cli", "generate", "Why is the sky blue?", "--max-tokens", "4", "--json"],
        cwd=tmp_path / "elsewhere",
        env={"PATH": str(python.parent), "HOME": os.environ["HOME"]},  # no compiler, no git
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert '"output_tokens": [' in ended.stdout


def installed(wheel: Path, environment: Path) -> Path:
    """The Python of a new environment with ``wheel``. It borrows the packages of this one, but not an editable SpecGrove."""
    venv.create(environment)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site_packages)
    # Folders that a .pth file names are searched; .pth files in them, which editable installs work by, are not read.
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed))
    return environment / "bin" / "python"
