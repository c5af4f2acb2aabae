"""What pods may do and what they take."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from tests.k8s.manifests import OVERLAYS, Rendered, composed, objects_of, rendered
from tests.k8s.schemas import VERSIONS, errors_of
from tools.k8s_plain import K8S, render


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


def test_a_gpu_is_asked_for_where_the_settings_want_one() -> None:
    suite = rendered("gpu-single")
    (llm,) = suite.of_component("llm")
    assert llm.main["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert llm.spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert llm.spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    # Nothing else holds a GPU, the fetching of the model neither.
    holders = [
        c["name"] for w in suite.workloads for c in w.all_containers if "nvidia.com/gpu" in c["resources"]["limits"]
    ]
    assert holders == ["llm"]
    settings = yaml.safe_load(suite.of_kind("ConfigMap")[0]["data"]["suite.yaml"])
    assert (settings["llm"]["device"], settings["llm"]["gpu-kernels"], settings["ssm"]["device"]) == (
        "cuda",
        "require",
        "cpu",
    )


def test_high_availability_means_several_of_each_over_zones_and_keys_for_clients() -> None:
    suite = rendered("ha")
    replicas = {workload.name: workload.owner["spec"]["replicas"] for workload in suite.workloads}
    assert replicas == {
        "Deployment/router": 3, "StatefulSet/llm": 3, "Deployment/ssm-demo": 2, "Deployment/ssm-lookup": 2,
    }  # fmt: skip
    for workload in suite.workloads:
        topologies = [constraint["topologyKey"] for constraint in workload.spec["topologySpreadConstraints"]]
        assert topologies == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    (router,) = suite.of_component("router")
    secrets = [volume["secret"] for volume in router.spec["volumes"] if "secret" in volume]
    assert secrets == [{"secretName": "api-keys", "defaultMode": 0o440}]


def test_each_llm_replica_keeps_its_model_on_a_volume_of_its_own() -> None:
    for overlay in ("gpu-single", "ha"):
        (llm,) = rendered(overlay).of_component("llm")
        (claim,) = llm.owner["spec"]["volumeClaimTemplates"]
        assert claim["metadata"]["name"] == "cache"
        assert "cache" not in [volume["name"] for volume in llm.spec["volumes"]]
        assert llm.spec["securityContext"]["fsGroup"] == 65532


def test_the_overlay_of_the_docs_is_one(tmp_path: Path) -> None:
    page = (K8S.parent / "docs" / "kubernetes.md").read_text()
    (kustomization,) = re.findall(r"```yaml\n(apiVersion: kustomize.*?)```", page, re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(kustomization.replace("../../", f"{os.path.relpath(K8S, tmp_path)}/"))
    (tmp_path / "suite.yaml").write_text("llm: {model: mine}\n")
    suite = objects_of(render(tmp_path))
    assert [found["data"] for found in suite.of_kind("ConfigMap")] == [{"suite.yaml": "llm: {model: mine}\n"}]
    for workload in suite.workloads:
        assert all(c["image"].startswith("registry.example.com/specgrove/") for c in workload.all_containers)
        assert all(":0." in c["image"] for c in workload.all_containers)
    assert suite.of_component("router")[0].owner["spec"]["replicas"] == 3


def test_a_model_may_come_as_an_image(tmp_path: Path) -> None:
    (llm,) = composed(tmp_path, ["model-image", "ssm-lookup"]).of_component("llm")
    (volume,) = [volume for volume in llm.spec["volumes"] if "image" in volume]
    (mount,) = [mount for mount in llm.main["volumeMounts"] if mount["name"] == volume["name"]]
    assert mount["readOnly"] is True
    assert f"--model={mount['mountPath']}" in llm.main["args"]
    assert "initContainers" not in llm.spec
    # Before 1.31 there are no volumes of this kind.
    assert not errors_of([llm.owner], VERSIONS[2:])
    assert errors_of([llm.owner], VERSIONS[:2])


def test_exclusive_cores_are_whole_ones_of_all_containers_and_as_many_as_threads(tmp_path: Path) -> None:
    (llm,) = composed(tmp_path, ["ssm-lookup", "model-download", "cpu-exclusive"]).of_component("llm")
    for container in llm.all_containers:
        # What makes a pod's QoS class Guaranteed.
        assert container["resources"]["requests"] == container["resources"]["limits"]
    num_cores = llm.main["resources"]["limits"]["cpu"]
    assert num_cores.isdecimal()
    assert llm.main["args"].count(f"--threads={num_cores}") == 1
    assert not errors_of([llm.owner], VERSIONS)
