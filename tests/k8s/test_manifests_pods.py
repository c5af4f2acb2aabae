"""What pods may do and what they take."""

from __future__ import annotations

import pytest

from tests.k8s.manifests import OVERLAYS, Rendered, rendered


@pytest.fixture(params=OVERLAYS)
def suite(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


def test_pods_are_as_the_restricted_standard_wants_them(suite: Rendered) -> None:
    for workload in suite.workloads:
        pod = workload.spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert (pod["runAsUser"], pod["runAsGroup"]) == (65532, 65532)
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & workload.spec.keys()
        kinds = {kind for volume in workload.spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim", "image"}
        for container in workload.all_containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (workload.name, container["name"])
            assert not any("hostPort" in port for port in container.get("ports", ()))


def test_pods_say_what_they_take(suite: Rendered) -> None:
    for workload in suite.workloads:
        assert workload.spec["enableServiceLinks"] is False
        for container in workload.all_containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), workload.name
            assert "memory" in resources["limits"]
            # A quota would stop threads in the middle of a step.
            assert "cpu" not in resources["limits"]


def test_the_demo_fits_a_laptop_and_needs_nothing_installed() -> None:
    suite = rendered("cpu-demo")
    assert {found["apiVersion"] for found in suite.objects} == {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1"}
    assert not suite.of_kind("PersistentVolumeClaim")
    requests = [
        (workload.owner["spec"]["replicas"], workload.main["resources"]["requests"]) for workload in suite.workloads
    ]
    assert sum(replicas * float(r["cpu"].removesuffix("m")) for replicas, r in requests) <= 1500
    mebibytes = {"Mi": 1, "Gi": 1024}
    assert sum(replicas * int(r["memory"][:-2]) * mebibytes[r["memory"][-2:]] for replicas, r in requests) <= 3072
    for workload in suite.workloads:
        assert "volumeClaimTemplates" not in workload.owner["spec"]
        assert "nvidia.com/gpu" not in workload.main["resources"]["limits"]
        assert not [v for v in workload.spec["volumes"] if "secret" in v]
