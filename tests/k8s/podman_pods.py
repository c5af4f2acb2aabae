"""Pods as podman takes them, of the workloads that overlays render. What a pod may do, runs and reads stays as rendered.

podman 4.3 makes nothing of StatefulSets, starts init containers anew for ever where pods are, and knows no gRPC probes and no hooks: the
tests' cluster (``tests.k8s.podman_cluster``) does that. Pods have the "host network" of whoever starts them: a namespace of their own.
"""

from __future__ import annotations

import copy
from pathlib import Path

from tests.k8s.manifests import Manifest, Workload

_OF_THE_CLUSTER = (
    "initContainers",
    "serviceAccountName",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "topologySpreadConstraints",
)
# podman would forward ports to the host, which these pods are to themselves.
_OF_KUBELET = ("ports", "startupProbe", "readinessProbe", "livenessProbe", "lifecycle")
CACHE_VOLUME = "cache"


def pod_of(workload: Workload, name: str, cache: Path, more_arguments: tuple[str, ...] = ()) -> Manifest:
    """Its containers, started again whenever they end. ``cache`` holds the models; ``more_arguments`` go to the service."""
    pod = _pod(workload, name, workload.containers, "Always", cache)
    pod["spec"]["containers"][0]["args"] += more_arguments
    return pod


def init_pod_of(workload: Workload, name: str, cache: Path) -> Manifest | None:
    """What runs before, once; ``None`` where nothing does."""
    containers = workload.spec.get("initContainers", ())
    return _pod(workload, f"{name}-init", containers, "Never", cache) if containers else None


def _pod(workload: Workload, name: str, containers: list[Manifest], restart_policy: str, cache: Path) -> Manifest:
    spec = {key: copy.deepcopy(value) for key, value in workload.spec.items() if key not in _OF_THE_CLUSTER}
    spec |= {"hostNetwork": True, "restartPolicy": restart_policy, "containers": []}
    for container in containers:
        kept = {key: copy.deepcopy(value) for key, value in container.items() if key not in _OF_KUBELET}
        spec["containers"].append(kept | {"imagePullPolicy": "Never"})
    for volume in spec["volumes"]:
        if volume["name"] == CACHE_VOLUME:
            del volume["emptyDir"]
            volume["hostPath"] = {"path": str(cache), "type": "Directory"}
    metadata = {"name": name, "labels": dict(workload.labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
