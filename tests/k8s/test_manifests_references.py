"""What objects say of one another holds: ports, selectors, names of ConfigMaps, volumes and accounts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from specgrove.v1 import llm_pb2, router_pb2, ssm_pb2
from tests.k8s.manifests import COMPONENT, NAMESPACE, OVERLAYS, Manifest, Rendered, Workload, rendered

PORTS = {
    "router": {"grpc": 50051, "http": 8000, "health": 50050, "metrics": 9100},
    "llm": {"grpc": 50052, "health": 50050, "metrics": 9100},
    "ssm": {"grpc": 50053, "health": 50050, "metrics": 9100},
}
FLAGS = {"grpc": "--address", "http": "--http-address", "health": "--health-address", "metrics": "--metrics-address"}
READINESS = {
    "router": router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name,
    "llm": llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name,
    "ssm": ssm_pb2.DESCRIPTOR.services_by_name["SsmService"].full_name,
}
LIVENESS = "liveness"


@pytest.fixture(params=OVERLAYS)
def suite(request: pytest.FixtureRequest) -> Rendered:
    return rendered(request.param)


def values_of(container: Manifest, flag: str) -> list[str]:
    """Of ``--flag=VALUE`` in its args."""
    return [arg.partition("=")[2] for arg in container.get("args", ()) if arg.startswith(f"{flag}=")]


def is_service(workload: Workload) -> bool:
    """Ranks that answer nobody have no ports."""
    return bool(workload.ports)


def test_there_is_a_router_an_llm_and_a_pool_of_ssms(suite: Rendered) -> None:
    assert {workload.component for workload in suite.workloads} == {"router", "llm", "ssm"}
    assert len(suite.of_component("router")) == 1


def test_everything_is_in_the_namespace(suite: Rendered) -> None:
    assert [found["metadata"]["name"] for found in suite.of_kind("Namespace")] == [NAMESPACE]
    for found in suite.objects:
        if found["kind"] != "Namespace":
            assert found["metadata"].get("namespace") == NAMESPACE, found["metadata"]


def test_containers_listen_where_their_ports_say(suite: Rendered) -> None:
    for workload in filter(is_service, suite.workloads):
        assert workload.ports == PORTS[workload.component], workload.name
        for name, number in workload.ports.items():
            addresses = values_of(workload.main, FLAGS[name]) or [
                arg for arg in workload.main.get("command", ()) if arg == f"{FLAGS[name]}=0.0.0.0:{number}"
            ]
            assert [address.rpartition(":")[2] for address in addresses] == [str(number)], (workload.name, name)


def test_selectors_of_workloads_are_labels_of_their_pods_and_of_no_others(suite: Rendered) -> None:
    for workload in suite.workloads:
        if "selector" not in workload.owner["spec"]:
            continue
        selected = suite.selected(workload.owner["spec"]["selector"]["matchLabels"])
        assert [found.name for found in selected] == [workload.name]


def test_services_lead_to_pods_of_one_workload_and_to_ports_that_they_have(suite: Rendered) -> None:
    for service in suite.of_kind("Service"):
        selected = suite.selected(service["spec"]["selector"])
        owners = {workload.name for workload in selected}
        assert len(owners) == 1, service["metadata"]["name"]
        assert service["metadata"]["labels"][COMPONENT] == selected[0].component
        for port in service["spec"]["ports"]:
            assert port["appProtocol"] == {"grpc": "kubernetes.io/h2c", "http": "http"}[port["name"]]
            number = selected[0].ports[port["targetPort"]]
            # A headless Service translates no ports.
            assert port["port"] == number


def test_every_service_of_the_pool_is_found_by_the_routers(suite: Rendered) -> None:
    (router,) = suite.of_component("router")
    for component in ("llm", "ssm"):
        found = set()
        for address in values_of(router.main, f"--{component}"):
            scheme, name, port = address.split(":")
            service = suite.named("Service", name)
            assert scheme == "dns"
            assert service["spec"]["clusterIP"] == "None"
            assert service["spec"]["publishNotReadyAddresses"] is True
            # A pod with an address of each family would be two replicas.
            assert service["spec"]["ipFamilyPolicy"] == "SingleStack"
            assert int(port) in [listed["port"] for listed in service["spec"]["ports"]]
            found |= {workload.name for workload in suite.selected(service["spec"]["selector"])}
        assert found == {workload.name for workload in filter(is_service, suite.of_component(component))}


def test_stateful_sets_have_their_service(suite: Rendered) -> None:
    for found in suite.of_kind("StatefulSet"):
        assert suite.named("Service", found["spec"]["serviceName"])["spec"]["clusterIP"] == "None"


def test_probes_ask_the_health_port_for_names_that_the_services_tell(suite: Rendered) -> None:
    for workload in filter(is_service, suite.workloads):
        readiness, startup, liveness = (
            workload.main[f"{kind}Probe"]["grpc"] for kind in ("readiness", "startup", "liveness")
        )
        assert {probe["port"] for probe in (readiness, startup, liveness)} == {workload.ports["health"]}
        assert readiness["service"] == READINESS[workload.component]
        assert liveness["service"] == LIVENESS
        # A router waits for an LLM service as long as that loads: this is no failure of its own.
        assert startup["service"] == (LIVENESS if workload.component == "router" else READINESS[workload.component])


def test_a_start_may_take_long_and_a_slow_answer_kills_nobody(suite: Rendered) -> None:
    for workload in filter(is_service, suite.workloads):
        startup, liveness = workload.main["startupProbe"], workload.main["livenessProbe"]
        least_s = {"router": 60, "ssm": 300, "llm": 1200}[workload.component]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= least_s, workload.name
        assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60
        assert workload.main["readinessProbe"]["failureThreshold"] == 1


def test_a_rollout_is_not_given_up_before_the_pods_are(suite: Rendered) -> None:
    for workload in suite.workloads:
        if workload.owner["kind"] == "Deployment":
            # Routers are ready when the LLM service is.
            (awaited,) = filter(is_service, suite.of_component("llm")) if workload.component == "router" else [workload]
            probe = awaited.main["startupProbe"]
            least_s = probe["periodSeconds"] * probe["failureThreshold"]
            assert workload.owner["spec"]["progressDeadlineSeconds"] >= least_s, workload.name


def test_every_workload_has_a_budget_that_lets_nodes_be_drained(suite: Rendered) -> None:
    budgets = [(found["spec"], suite.selected(found["spec"]["selector"]["matchLabels"]))
               for found in suite.of_kind("PodDisruptionBudget")]  # fmt: skip
    for workload in suite.workloads:
        (spec,) = [spec for spec, selected in budgets if workload.name in [found.name for found in selected]]
        assert spec["maxUnavailable"] == 1
        assert spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_pods_are_spread_among_their_own(suite: Rendered) -> None:
    for workload in filter(is_service, suite.workloads):
        # A rank takes all GPUs of its node.
        for constraint in () if workload.is_rank else workload.spec["topologySpreadConstraints"]:
            own = {key: workload.labels[key] for key in constraint.get("matchLabelKeys", ()) if key in workload.labels}
            assert not own.keys() & constraint["labelSelector"]["matchLabels"].keys()
            selected = suite.selected(constraint["labelSelector"]["matchLabels"] | own)
            assert {found.name for found in selected} == {workload.name}


def test_mounts_volumes_and_what_they_hold_are_there(suite: Rendered) -> None:
    for workload in suite.workloads:
        volumes = {volume["name"]: volume for volume in workload.spec["volumes"]}
        claimed = {claim["metadata"]["name"] for claim in workload.claims}
        mounts = [mount["name"] for container in workload.all_containers for mount in container["volumeMounts"]]
        assert set(mounts) == {*volumes, *claimed}, workload.name
        for volume in volumes.values():
            if "configMap" in volume:
                assert "suite.yaml" in suite.named("ConfigMap", volume["configMap"]["name"])["data"]


def test_every_container_reads_the_one_configuration(suite: Rendered) -> None:
    (config,) = suite.of_kind("ConfigMap")
    assert list(config["data"]) == ["suite.yaml"]
    for workload in suite.workloads:
        names = [v["configMap"]["name"] for v in workload.spec["volumes"] if "configMap" in v]
        assert names == [config["metadata"]["name"]]
        for container in workload.all_containers:
            words = [*container.get("command", ()), *container.get("args", ())]
            assert any("--config=/etc/specgrove/suite.yaml" in word for word in words), (
                workload.name,
                container["name"],
            )
            mounted = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "config"]
            assert mounted == ["/etc/specgrove"]


def test_accounts_are_there_and_have_no_tokens(suite: Rendered) -> None:
    for workload in suite.workloads:
        account = suite.named("ServiceAccount", workload.spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False
        assert account["metadata"]["labels"][COMPONENT] == workload.component
        assert workload.spec["automountServiceAccountToken"] is False


def test_images_have_the_version_of_this_source(suite: Rendered) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {"router": "specgrove/router", "llm": "specgrove/llm-service", "ssm": "specgrove/ssm-service"}
    for workload in suite.workloads:
        for container in workload.all_containers:
            name, _, tag = container["image"].partition(":")
            has_gpu = "nvidia.com/gpu" in workload.main["resources"]["limits"]
            assert name == names[workload.component]
            assert tag == project["version"] + ("-cuda" if has_gpu else "")
