"""What an overlay renders to, for tests: its objects, and the pods that its workloads make. Rendered once a process."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tools.k8s_plain import K8S, overlays, render

Manifest = dict[str, Any]
OVERLAYS = overlays()
NAMESPACE = "specgrove"
COMPONENT = "app.kubernetes.io/component"
RANK = "specgrove.dev/rank"
# Components that go with every overlay whose pool is the demo's, in an order in which what builds on another comes after it.
SCALED = ("autoscaling", "autoscaling/ssm-demo", "autoscaling/ssm-lookup")
ADD_ONS = ("monitoring", *SCALED, "tls", "tls/clients", "gateway", "gateway/inference-pool")


@dataclass(frozen=True)
class Workload:
    """A kind of pod: what makes it (a Deployment, a StatefulSet, ...), and the pod's own labels and spec."""

    owner: Manifest
    labels: Mapping[str, str]
    spec: Manifest

    @property
    def name(self) -> str:
        """Its owner's, with the kind; of a group of ranks also which it is of them."""
        name = f"{self.owner['kind']}/{self.owner['metadata']['name']}"
        return f"{name}/{self.labels[RANK]}" if self.is_rank else name

    @property
    def is_rank(self) -> bool:
        """Whether it is one of several pods that are one replica together."""
        return bool(self.owner["kind"] == "LeaderWorkerSet")

    @property
    def claims(self) -> list[Manifest]:
        """Of volumes that each of its pods gets one of."""
        spec = self.owner["spec"]
        return list((spec["leaderWorkerTemplate"] if self.is_rank else spec).get("volumeClaimTemplates", ()))

    @property
    def component(self) -> str:
        """``router``, ``llm`` or ``ssm``."""
        return self.labels[COMPONENT]

    @property
    def containers(self) -> list[Manifest]:
        """Those that run together, without those that come before."""
        return list(self.spec["containers"])

    @property
    def all_containers(self) -> list[Manifest]:
        """Those that come before, too."""
        return [*self.spec.get("initContainers", ()), *self.containers]

    @property
    def main(self) -> Manifest:
        """The service's own container."""
        return self.containers[0]

    @property
    def ports(self) -> dict[str, int]:
        """Of all containers, by name."""
        return {port["name"]: port["containerPort"] for c in self.containers for port in c.get("ports", ())}


@dataclass(frozen=True)
class Rendered:
    """All objects of an overlay."""

    objects: Sequence[Manifest]

    def of_kind(self, *kinds: str) -> list[Manifest]:
        """In the order in which they are applied."""
        return [found for found in self.objects if found["kind"] in kinds]

    def named(self, kind: str, name: str) -> Manifest:
        """The one of this kind and name. There must be one."""
        (found,) = [found for found in self.of_kind(kind) if found["metadata"]["name"] == name]
        return found

    @property
    def workloads(self) -> list[Workload]:
        """All kinds of pods."""
        return [workload for found in self.objects for workload in _workloads_of(found)]

    def of_component(self, component: str) -> list[Workload]:
        """Those of the routers, the LLM service or the SSMs."""
        return [workload for workload in self.workloads if workload.component == component]

    def selected(self, labels: Mapping[str, str]) -> list[Workload]:
        """Whose pods have these labels."""
        return [workload for workload in self.workloads if labels.items() <= workload.labels.items()]


def _workloads_of(owner: Manifest) -> Iterator[Workload]:
    if owner["kind"] in ("Deployment", "StatefulSet"):
        templates = [owner["spec"]["template"]]
    elif owner["kind"] == "LeaderWorkerSet":
        of_group = owner["spec"]["leaderWorkerTemplate"]
        templates = [of_group[name] for name in ("leaderTemplate", "workerTemplate") if name in of_group]
    else:
        templates = []
    for template in templates:
        yield Workload(owner, template["metadata"]["labels"], template["spec"])


def objects_of(text: str) -> Rendered:
    """Of what kustomize prints."""
    return Rendered([found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if found])


@cache
def rendered(overlay: str) -> Rendered:
    """What ``kubectl apply -k k8s/overlays/OVERLAY`` applies. Not to be changed: all tests share it."""
    return objects_of(render(K8S / "overlays" / overlay))


def composed(folder: Path, components: Sequence[str], *, resources: Sequence[str] = ("base",)) -> Rendered:
    """The same of the base with some components, by way of an overlay that is written into ``folder``."""
    root = os.path.relpath(K8S, folder.resolve())
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": NAMESPACE,
        "resources": [f"{root}/{name}" for name in resources],
        "components": [f"{root}/components/{name}" for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return objects_of(render(folder))
