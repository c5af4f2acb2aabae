"""A real API server takes every overlay and every component, without a warning: defaults, validation, admission and Pod Security."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.api_server import ApiServer, api_server, missing
from tests.k8s.manifests import NAMESPACE, OVERLAYS, Manifest, Rendered, composed, rendered
from tests.k8s.test_components import COMBINATIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """One on which the namespace and the accounts are: what is in a namespace is looked at only where there is one."""
    if (reason := missing()) is not None:
        pytest.skip(f"no API server is started: {reason}")
    with api_server(tmp_path_factory.mktemp("server")) as running:
        of_the_base = rendered("cpu-demo").of_kind("Namespace", "ServiceAccount")
        assert running.apply(of_the_base, for_real=True) == ""
        yield running


def pods_of(suite: Rendered) -> list[Manifest]:
    """One of each kind of pod, as controllers make it: admission looks at pods themselves only when they come."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{number}", "namespace": NAMESPACE, "labels": dict(workload.labels)},
            "spec": {**workload.spec, "volumes": [*workload.spec["volumes"], *map(claimed, workload.claims)]},
        }
        for number, workload in enumerate(suite.workloads)
    ]


def claimed(claim: Manifest) -> Manifest:
    """The volume of a pod that a claim of its workload is made for."""
    name = claim["metadata"]["name"]
    return {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-0"}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_takes_every_overlay_and_its_pods(server: ApiServer, overlay: str) -> None:
    suite = rendered(overlay)
    assert server.apply([*suite.objects, *pods_of(suite)]) == ""


@pytest.mark.parametrize(("overlay", "components"), COMBINATIONS)
def test_it_takes_what_components_compose(
    server: ApiServer, overlay: str, components: tuple[str, ...], tmp_path: Path
) -> None:
    suite = composed(tmp_path, components, resources=[f"overlays/{overlay}"])
    assert server.apply([*suite.objects, *pods_of(suite)]) == ""


def test_exclusive_cores_are_given_to_pods_of_the_class_that_kubelets_ask_for(
    server: ApiServer, tmp_path: Path
) -> None:
    suite = composed(tmp_path, ["cpu-exclusive"], resources=["overlays/cpu-demo"])
    classes = {}
    for pod in pods_of(suite):
        made = json.loads(
            server.kubectl("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(pod)).stdout
        )
        classes[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = made["status"]["qosClass"]
    assert classes == {"llm": "Guaranteed", "router": "Burstable", "ssm": "Burstable"}


def test_what_it_stores_is_what_the_manifests_say(server: ApiServer) -> None:
    """Nothing that was set is dropped on the way, as fields behind a feature gate are."""
    suite = rendered("cpu-demo")
    for found in suite.objects:
        done = server.kubectl(
            "apply", "--server-side", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(found)
        )
        assert done.returncode == 0, done.stderr
        assert lacks(json.loads(done.stdout), found) == []


def lacks(stored: object, asked: object, path: str = "") -> list[str]:
    """Where ``stored`` is less than ``asked``."""
    if isinstance(asked, dict) and isinstance(stored, dict):
        return [line for key, value in asked.items() for line in lacks(stored.get(key), value, f"{path}.{key}")]
    if isinstance(asked, list) and isinstance(stored, list) and len(asked) == len(stored):
        return [
            line for number, value in enumerate(asked) for line in lacks(stored[number], value, f"{path}[{number}]")
        ]
    return [] if stored == asked else [f"{path}: {stored} instead of {asked}"]


def test_it_refuses_what_is_wrong(server: ApiServer) -> None:
    (router,) = [found for found in rendered("cpu-demo").of_kind("Deployment") if found["metadata"]["name"] == "router"]
    unknown, escalating = copy.deepcopy(router), copy.deepcopy(router)
    unknown["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["grpc"]["servise"] = "liveness"
    escalating["spec"]["template"]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert "servise" in server.apply([unknown])
    # A warning of the Deployment, an error of its pods.
    assert 'would violate PodSecurity "restricted' in server.apply([escalating])
    assert 'violates PodSecurity "restricted' in server.apply(pods_of(Rendered([escalating])))
