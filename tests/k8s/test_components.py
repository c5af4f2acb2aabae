"""Components on top of overlays, in any combination: what they make is valid, and what it says of other objects holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from specgrove.settings.services import SECTIONS
from tests.k8s import crds
from tests.k8s.manifests import NAMESPACE, Rendered, composed
from tests.k8s.schemas import errors_of
from tools.metrics_page import MODULES, metrics_of

SCALED = ("autoscaling", "autoscaling/ssm-demo", "autoscaling/ssm-lookup")
ALL = ("monitoring", *SCALED, "gateway", "gateway/inference-pool")
COMBINATIONS = [
    *(("cpu-demo", (name,)) for name in ("monitoring", "autoscaling", "gateway")),
    ("cpu-demo", ("gateway", "gateway/inference-pool")),
    ("cpu-demo", ALL),
    # In whatever order, but for what builds on another.
    ("cpu-demo", ("gateway", "gateway/inference-pool", *reversed(SCALED), "monitoring")),
    ("ha", ALL),
    ("gpu-single", ("autoscaling", "autoscaling/ssm-qwen", "autoscaling/ssm-lookup")),
    ("gpu-multinode", ("monitoring",)),
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """All components on the demo."""
    return composed(tmp_path_factory.mktemp("all"), ALL, resources=["overlays/cpu-demo"])


def wrong_with(suite: Rendered) -> list[str]:
    """By the schemas of Kubernetes, and of the projects whose kinds they are."""
    of_others = [found for found in suite.objects if (found["apiVersion"], found["kind"]) in crds.kinds()]
    built_in = [found for found in suite.objects if found not in of_others]
    return [*errors_of(built_in), *(error for found in of_others for error in crds.errors_of(found))]


@pytest.mark.parametrize(("overlay", "components"), COMBINATIONS)
def test_components_compose_to_what_api_servers_take(overlay: str, components: tuple[str, ...], tmp_path: Path) -> None:
    suite = composed(tmp_path, components, resources=[f"overlays/{overlay}"])
    assert wrong_with(suite) == []
    names = [(found["kind"], found["metadata"]["name"]) for found in suite.objects]
    assert len(names) == len(set(names))
    assert {found["metadata"].get("namespace", NAMESPACE) for found in suite.objects} == {NAMESPACE}


def test_flags_are_settings_of_the_services(everything: Rendered) -> None:
    for workload in everything.workloads:
        known = {f"--{setting.name}" for setting in SECTIONS[workload.component]} | {"--config"}
        assert {arg.partition("=")[0] for arg in workload.main["args"]} <= known, workload.name


# Autoscalers.


def test_autoscalers_own_the_numbers_of_replicas(everything: Rendered) -> None:
    scaled = [*everything.of_kind("ScaledObject"), *everything.of_kind("HorizontalPodAutoscaler")]
    targets = [found["spec"]["scaleTargetRef"] for found in scaled]
    names = {f"{target['kind']}/{target['name']}" for target in targets}
    assert names == {workload.name for workload in everything.workloads}
    for target in targets:
        owner = everything.named(target["kind"], target["name"])
        assert owner["apiVersion"] == target["apiVersion"]
        assert "replicas" not in owner["spec"]


def test_queries_of_autoscalers_are_of_their_own_pods(everything: Rendered) -> None:
    metrics = {metric.name for modules in MODULES.values() for metric in metrics_of(modules)}
    for found in everything.of_kind("ScaledObject"):
        for trigger in found["spec"]["triggers"]:
            query = trigger["metadata"]["query"]
            selectors = dict(re.findall(r"(specgrove_\w+)\{([^}]*)\}", query))
            assert selectors.keys() == set(re.findall(r"specgrove_[a-z_]+", query.replace('"specgrove"', "")))
            assert selectors.keys() <= metrics
            assert all(f'namespace="{NAMESPACE}"' in selector for selector in selectors.values())
            if found["metadata"]["labels"]["app.kubernetes.io/component"] == "ssm":
                target = found["spec"]["scaleTargetRef"]["name"]
                assert all(f'pod=~"{target}-.+"' in selector for selector in selectors.values())
            assert "monitoring" in trigger["metadata"]["serverAddress"]


# The gateway.


def test_routes_lead_from_listeners_to_ports_of_the_routers(tmp_path: Path) -> None:
    suite = composed(tmp_path, ["gateway"], resources=["overlays/cpu-demo"])
    listeners = {listener["name"]: listener for listener in suite.named("Gateway", "specgrove")["spec"]["listeners"]}
    ports = {port["name"]: port["port"] for port in suite.named("Service", "router")["spec"]["ports"]}
    for kind, port in (("HTTPRoute", "http"), ("GRPCRoute", "grpc")):
        spec = suite.named(kind, "router")["spec"]
        (parent,) = spec["parentRefs"]
        assert parent["name"] == "specgrove"
        assert listeners[parent["sectionName"]]["allowedRoutes"]["kinds"] == [{"kind": kind}]
        assert spec["rules"][0]["backendRefs"] == [{"name": "router", "port": ports[port]}]


def test_the_inference_pool_is_the_routers_and_their_metrics_have_the_pickers_names(everything: Rendered) -> None:
    pool = everything.named("InferencePool", "router")["spec"]
    (router,) = everything.selected(pool["selector"]["matchLabels"])
    assert router.component == "router"
    assert pool["targetPorts"] == [{"number": router.ports["http"]}]
    (backend,) = everything.named("HTTPRoute", "router")["spec"]["rules"][0]["backendRefs"]
    group = everything.named("InferencePool", "router")["apiVersion"].partition("/")[0]
    assert backend == {"group": group, "kind": "InferencePool", "name": "router"}
    assert "--metrics-vllm-names" in router.main["args"]
    # Of the extension's model server protocol.
    needed = {"vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc"}
    assert needed <= {metric.vllm_name for metric in metrics_of(MODULES["Router"])}
