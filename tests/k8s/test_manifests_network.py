"""NetworkPolicies let through the connections that the configuration makes, and no other: all pairs are tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.k8s.manifests import NAMESPACE, OVERLAYS, Rendered, Workload, composed, rendered
from tests.k8s.network import Network, Place

Connection = tuple[str, str, int, str]

DNS = Place("dns", "kube-system", {"k8s-app": "kube-dns"})
NODE_DNS = Place("dns of the node", address="169.254.20.10")
MONITORING = Place("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"})
STRANGER = Place(
    "stranger", "default", {"app.kubernetes.io/name": "specgrove", "app.kubernetes.io/component": "router"}
)
NEIGHBOUR = Place("neighbour", NAMESPACE, {"app": "other"})
HUB, HUB_6 = Place("hub", address="18.1.2.3"), Place("hub by IPv6", address="2600:9000::1")
PRIVATE, METADATA = Place("private", address="10.0.0.9"), Place("metadata", address="169.254.169.254")
OTHERS = (DNS, NODE_DNS, MONITORING, STRANGER, NEIGHBOUR, HUB, HUB_6, PRIVATE, METADATA)
CLIENTS = (MONITORING, STRANGER, HUB, HUB_6, PRIVATE, METADATA, DNS, NODE_DNS)
PROBED = (53, 80, 443, 8000, 9100, 29500, 50050, 50051, 50052, 50053, 50054)


def place_of(workload: Workload, number: int) -> Place:
    return Place(f"{workload.name}.{number}", NAMESPACE, workload.labels, ports=workload.ports)


def let_through(suite: Rendered) -> set[Connection]:
    """Among two pods of each workload and the others, those from or to a pod of the suite."""
    network = Network(NAMESPACE, suite.of_kind("NetworkPolicy"))
    pods = [place_of(workload, number) for workload in suite.workloads for number in (0, 1)]
    return {
        (source.name, target.name, port, protocol)
        for source in (*pods, *OTHERS)
        for target in (*pods, *OTHERS)
        if source is not target and (source in pods or target in pods)
        for port in PROBED
        for protocol in ("TCP", "UDP")
        if network.lets(source, target, port, protocol)
    }


def made(suite: Rendered) -> set[Connection]:
    """What the command lines say, what is scraped, and what clients may ask."""
    return {
        (source, target, port, protocol)
        for workload in suite.workloads
        for number in (0, 1)
        for source, target, port, protocol in _made_by(suite, workload, f"{workload.name}.{number}")
    }


def _made_by(suite: Rendered, workload: Workload, pod: str) -> Iterator[Connection]:
    if "metrics" in workload.ports:
        yield MONITORING.name, pod, workload.ports["metrics"], "TCP"
    if workload.component == "router":
        for client in CLIENTS:
            yield client.name, pod, workload.ports["grpc"], "TCP"
            yield client.name, pod, workload.ports["http"], "TCP"
        for argument in workload.main["args"]:
            flag, _, address = argument.partition("=dns:")
            if flag in ("--llm", "--ssm"):
                name, _, port = address.partition(":")
                for target in suite.selected(suite.named("Service", name)["spec"]["selector"]):
                    if target.ports:
                        yield from ((pod, f"{target.name}.{number}", int(port), "TCP") for number in (0, 1))
    if workload.is_rank:
        # At whatever ports the libraries choose, of any rank.
        for target in [found for found in suite.workloads if found.is_rank]:
            others = {f"{target.name}.{number}" for number in (0, 1)} - {pod}
            yield from ((pod, other, port, "TCP") for other in others for port in PROBED)
    if workload.component == "router" or downloads(workload) or workload.is_rank:
        yield from ((pod, dns.name, 53, protocol) for dns in (DNS, NODE_DNS) for protocol in ("TCP", "UDP"))
    if downloads(workload):
        yield from ((pod, hub.name, 443, "TCP") for hub in (HUB, HUB_6))


def downloads(workload: Workload) -> bool:
    """Whether a model comes from the hub: before the service starts, or, of an SSM's, when it does."""
    before = any("download" in container.get("command", ()) for container in workload.spec.get("initContainers", ()))
    return before or any(arg.startswith("--ssm=") and "/" in arg for arg in workload.main.get("args", ())
                         if workload.component == "ssm")  # fmt: skip


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_connected_is_let_through_and_nothing_else(overlay: str) -> None:
    suite = rendered(overlay)
    allowed, needed = let_through(suite), made(suite)
    # From a stranger's side all that another namespace's policies would have to allow is allowed.
    assert needed - allowed == set()
    assert {found for found in allowed - needed if not is_of_the_neighbour(found)} == set()


def test_an_ssm_may_fetch_its_model_however_the_llms_comes(tmp_path: Path) -> None:
    suite = composed(tmp_path, ["ssm-qwen", "model-image"])
    network = Network(NAMESPACE, suite.of_kind("NetworkPolicy"))
    (ssm,), (llm,) = suite.of_component("ssm"), suite.of_component("llm")
    assert network.lets(place_of(ssm, 0), HUB, 443)
    assert network.lets(place_of(ssm, 0), DNS, 53, "UDP")
    assert not network.lets(place_of(llm, 0), HUB, 443)


def is_of_the_neighbour(connection: Connection) -> bool:
    """A pod of another application in the namespace is a client like others, where it may go out at all."""
    return connection[0] == NEIGHBOUR.name


def test_without_policies_all_is_open() -> None:
    suite = rendered("cpu-demo")
    network = Network(NAMESPACE, ())
    (router,) = suite.of_component("router")
    assert network.lets(STRANGER, place_of(router, 0), 9100)
