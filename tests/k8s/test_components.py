"""Components on top of overlays, in any combination: what they make is valid, and what it says of other objects holds."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from specgrove.settings.services import SECTIONS
from tests.k8s import crds
from tests.k8s.manifests import ADD_ONS, NAMESPACE, OVERLAYS, SCALED, Rendered, Workload, composed
from tests.k8s.network import Network, Place
from tests.k8s.schemas import errors_of
from tools.metrics_page import MODULES, metrics_of

COMBINATIONS = [
    *(("cpu-demo", (name,)) for name in ("monitoring", "autoscaling", "tls", "gateway")),
    ("cpu-demo", ("tls", "tls/clients")),
    ("cpu-demo", ("gateway", "gateway/inference-pool")),
    ("cpu-demo", ADD_ONS),
    # In whatever order, but for what builds on another.
    ("cpu-demo", ("gateway", "gateway/inference-pool", "tls", "tls/clients", *reversed(SCALED), "monitoring")),
    ("ha", ADD_ONS),
    ("gpu-single", ("tls", "autoscaling", "autoscaling/ssm-qwen", "autoscaling/ssm-lookup")),
    ("gpu-multinode", ("tls", "monitoring")),
]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """All components on the demo."""
    return composed(tmp_path_factory.mktemp("all"), ADD_ONS, resources=["overlays/cpu-demo"])


def wrong_with(suite: Rendered) -> list[str]:
    """By the schemas of Kubernetes, and of the projects whose kinds they are."""
    return [error for found in suite.objects for error in wrong_with_one(json.dumps(found))]


@functools.cache
def wrong_with_one(manifest: str) -> list[str]:
    """Combinations share most of their objects: each is looked at once."""
    found = json.loads(manifest)
    is_of_others = (found["apiVersion"], found["kind"]) in crds.kinds()
    return crds.errors_of(found) if is_of_others else errors_of([found])


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


# Certificates.


def value_of(workload: Workload, flag: str) -> str:
    (value,) = [arg.partition("=")[2] for arg in workload.main["args"] if arg.startswith(f"--{flag}=")]
    return value


def certificate_at(suite: Rendered, workload: Workload, path: str) -> dict[str, Any]:
    """Whose Secret is mounted where a flag's file is."""
    folder, _, name = path.rpartition("/")
    assert name in ("tls.crt", "tls.key", "ca.crt")
    (mount,) = [mount for mount in workload.main["volumeMounts"] if mount["mountPath"] == folder]
    assert mount["readOnly"] is True
    (volume,) = [volume for volume in workload.spec["volumes"] if volume["name"] == mount["name"]]
    assert volume["secret"]["defaultMode"] == 0o440
    assert workload.spec["securityContext"]["fsGroup"] == workload.spec["securityContext"]["runAsGroup"]
    secret = volume["secret"]["secretName"]
    (found,) = [found["spec"] for found in suite.of_kind("Certificate") if found["spec"]["secretName"] == secret]
    return found  # type: ignore[no-any-return]


def check_mtls(suite: Rendered) -> None:
    (router,) = suite.of_component("router")
    flags = ("services-tls-ca", "services-tls-certificate", "services-tls-private-key")
    (shown,) = {str(certificate_at(suite, router, value_of(router, flag))) for flag in flags}
    assert "'client auth'" in shown
    assert "server auth" not in shown
    addresses = [arg for arg in router.main["args"] if re.match("--(llm|ssm)=", arg)]
    assert addresses
    for address in addresses:
        name = address.split(":")[1]
        (workload,) = suite.selected(suite.named("Service", name)["spec"]["selector"])
        for flag in ("tls-certificate", "tls-private-key", "tls-client-ca"):
            certificate = certificate_at(suite, workload, value_of(workload, flag))
            # The name that routers check is the one that they were given.
            assert name in certificate["dnsNames"]
            # No service's certificate opens another service.
            assert certificate["usages"] == ["digital signature", "server auth"]


def test_routers_know_services_by_the_names_in_their_certificates(everything: Rendered, tmp_path: Path) -> None:
    check_mtls(everything)
    for overlay in OVERLAYS:
        check_mtls(composed(tmp_path, ["tls"], resources=[f"overlays/{overlay}"]))


def test_certificates_are_of_one_authority(everything: Rendered) -> None:
    issuers = {found["metadata"]["name"]: found["spec"] for found in everything.of_kind("Issuer")}
    authority = everything.named("Certificate", "specgrove-ca")["spec"]
    assert issuers == {
        "specgrove-self-signed": {"selfSigned": {}},
        "specgrove-ca": {"ca": {"secretName": authority["secretName"]}},
    }
    for found in everything.of_kind("Certificate"):
        is_authority = found["spec"].get("isCA", False)
        assert found["spec"]["issuerRef"]["name"] == ("specgrove-self-signed" if is_authority else "specgrove-ca")
    mounted = [volume["secret"]["secretName"] for workload in everything.workloads
               for volume in workload.spec["volumes"] if "secret" in volume]  # fmt: skip
    assert authority["secretName"] not in mounted


def test_clients_by_tls_find_the_routers_service_in_its_certificate(everything: Rendered) -> None:
    (router,) = everything.of_component("router")
    for flag in ("tls-certificate", "tls-private-key"):
        assert "router" in certificate_at(everything, router, value_of(router, flag))["dnsNames"]
    ports = everything.named("Service", "router")["spec"]["ports"]
    assert [port["appProtocol"] for port in ports] == ["https", "https"]


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


def test_a_gateway_lets_requests_last_a_little_longer_than_routers_do(everything: Rendered) -> None:
    settings = yaml.safe_load(everything.named("ConfigMap", config_name(everything))["data"]["suite.yaml"])
    (rule,) = everything.named("HTTPRoute", "router")["spec"]["rules"]
    assert int(rule["timeouts"]["request"].removesuffix("s")) == settings["router"]["max-request-s"] + 10


def config_name(suite: Rendered) -> str:
    """Of the ConfigMap that pods read."""
    (router,) = suite.of_component("router")
    (name,) = [volume["configMap"]["name"] for volume in router.spec["volumes"] if "configMap" in volume]
    return str(name)


def test_pods_of_the_gateway_and_of_the_picker_are_let_through(everything: Rendered) -> None:
    network = Network(NAMESPACE, everything.of_kind("NetworkPolicy"))
    (workload,) = everything.of_component("router")
    router = Place("router", NAMESPACE, workload.labels, ports=workload.ports)
    gateway = Place("gateway", NAMESPACE, {"gateway.networking.k8s.io/gateway-name": "specgrove"})
    picker_name = everything.named("InferencePool", "router")["spec"]["endpointPickerRef"]["name"]
    picker = Place("picker", NAMESPACE, {"inferencepool": picker_name})
    client, control_plane = Place("client", address="18.1.2.3"), Place("istiod", "istio-system", {"app": "istiod"})
    api_server = Place("api", address="10.96.0.1")
    assert network.lets(client, gateway, 80)
    assert network.lets(gateway, control_plane, 15012)
    assert all(network.lets(gateway, router, port) for port in (8000, 50051))
    assert network.lets(gateway, picker, 9002)
    assert network.lets(picker, api_server, 443)
    assert all(network.lets(picker, router, port) for port in (8000, 9100))
    # What only routers and Prometheus may.
    assert not network.lets(gateway, router, 9100)
    (llm,) = everything.of_component("llm")
    assert not network.lets(gateway, Place("llm", NAMESPACE, llm.labels, ports=llm.ports), 50052)


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
