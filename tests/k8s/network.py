"""Which connections NetworkPolicies let through, by the rules of networking.k8s.io/v1.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that no policy of a direction selects is open in it; else
what any of these policies allows is allowed. A connection needs both ends' consent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """One end of a connection: a pod, or, without labels, an address that is none of a pod."""

    name: str
    namespace: str | None = None
    labels: Mapping[str, str] | None = None
    address: str | None = None
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """The policies of one namespace."""

    namespace: str
    policies: Iterable[Manifest]

    def lets(self, source: Place, target: Place, port: int, protocol: str = "TCP") -> bool:
        """Whether ``source`` may connect to a port of ``target``."""
        return self._consents("Egress", source, target, target, port, protocol) and self._consents(
            "Ingress", target, source, target, port, protocol
        )

    def _consents(self, direction: str, pod: Place, other: Place, target: Place, port: int, protocol: str) -> bool:
        specs = [policy["spec"] for policy in self.policies if self._selects(policy["spec"], direction, pod)]
        rules = [rule for spec in specs for rule in spec.get(direction.lower(), ())]
        return not specs or any(
            self._is_peer(rule.get("from" if direction == "Ingress" else "to"), other)
            and _is_port(rule.get("ports"), target, port, protocol)
            for rule in rules
        )

    def _selects(self, spec: Manifest, direction: str, pod: Place) -> bool:
        return (
            direction in spec["policyTypes"]
            and pod.namespace == self.namespace
            and pod.labels is not None
            and matches(spec["podSelector"], pod.labels)
        )

    def _is_peer(self, peers: list[Manifest] | None, other: Place) -> bool:
        return not peers or any(self._is(peer, other) for peer in peers)

    def _is(self, peer: Manifest, other: Place) -> bool:
        if "ipBlock" in peer:
            # What this means for pods is up to the network's plugin; the policies here mean addresses of no pods.
            return other.address is not None and _is_in(peer["ipBlock"], other.address)
        if other.labels is None or other.namespace is None:
            return False
        if "namespaceSelector" in peer:
            is_namespace = matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
        else:
            is_namespace = other.namespace == self.namespace
        return is_namespace and matches(peer.get("podSelector", {}), other.labels)


def matches(selector: Manifest, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects them."""
    for expression in selector.get("matchExpressions", ()):
        if expression["operator"] != "In":
            raise NotImplementedError(expression)
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _is_port(ports: list[Manifest] | None, target: Place, port: int, protocol: str) -> bool:
    return not ports or any(
        listed.get("protocol", "TCP") == protocol
        and ("port" not in listed or _first(listed["port"], target) <= port <= _last(listed, target))
        for listed in ports
    )


def _first(named: str | int, target: Place) -> int:
    return named if isinstance(named, int) else target.ports.get(named, -1)


def _last(listed: Manifest, target: Place) -> int:
    return int(listed.get("endPort", _first(listed["port"], target)))


def _is_in(block: Manifest, address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    return parsed in ipaddress.ip_network(block["cidr"]) and not any(
        parsed in ipaddress.ip_network(inner) for inner in block.get("except", ())
    )
