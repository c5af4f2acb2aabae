"""What podman is given is what overlays say, but for what a cluster and kubelet would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.k8s.manifests import Workload, rendered
from tests.k8s.podman_pods import init_pod_of, pod_of

CACHE = Path("/models")
WORKLOADS = {workload.owner["metadata"]["name"]: workload for workload in rendered("cpu-demo").workloads}


@pytest.fixture(params=sorted(WORKLOADS))
def workload(request: pytest.FixtureRequest) -> Workload:
    return WORKLOADS[request.param]


def test_a_pod_runs_and_may_do_what_is_rendered(workload: Workload) -> None:
    spec = pod_of(workload, "a", CACHE)["spec"]
    assert spec["securityContext"] == workload.spec["securityContext"]
    for made, said in zip(spec["containers"], workload.containers, strict=True):
        for key in ("name", "image", "args", "env", "resources", "securityContext", "volumeMounts"):
            assert made.get(key) == said.get(key), key
        assert made["securityContext"]["readOnlyRootFilesystem"]
    assert [volume["name"] for volume in spec["volumes"]] == [volume["name"] for volume in workload.spec["volumes"]]


def test_models_come_from_the_cache_that_is_given(workload: Workload) -> None:
    volumes = {volume.pop("name"): volume for volume in pod_of(workload, "a", CACHE)["spec"]["volumes"]}
    assert volumes.get("cache") == (
        None if workload.component == "router" else {"hostPath": {"path": "/models", "type": "Directory"}}
    )
    assert volumes["tmp"].keys() == {"emptyDir"}


def test_a_service_is_started_again_and_what_comes_before_it_is_not() -> None:
    llm = WORKLOADS["llm"]
    pod, before = pod_of(llm, "llm-0", CACHE), init_pod_of(llm, "llm-0", CACHE)
    assert before is not None
    assert (pod["spec"]["restartPolicy"], before["spec"]["restartPolicy"]) == ("Always", "Never")
    assert (pod["metadata"]["name"], before["metadata"]["name"]) == ("llm-0", "llm-0-init")
    assert [container["name"] for container in before["spec"]["containers"]] == ["model-download"]
    assert init_pod_of(WORKLOADS["router"], "router-0", CACHE) is None


def test_more_arguments_follow_those_of_the_manifest_and_change_it_not() -> None:
    router = WORKLOADS["router"]
    said = list(router.main["args"])
    (container,) = pod_of(router, "router-0", CACHE, ("--tree-policy=static",))["spec"]["containers"]
    assert container["args"] == [*said, "--tree-policy=static"]
    assert router.main["args"] == said
