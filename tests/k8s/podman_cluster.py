"""A cluster of one node made of podman: starts an overlay's pods, tells DNS of them, and ends them as kubelet does.

Containers that end are started again by podman, in the same pod, at the same address. Everything else that a cluster does, tests ask for.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.k8s import local_images
from tests.k8s.manifests import Manifest, Rendered, Workload
from tests.k8s.pod_network import DOMAIN, GATEWAY, PodNetwork
from tests.k8s.podman_pods import init_pod_of, pod_of
from tests.k8s.two_hosts import Host
from tests.waiting import wait_until

USER = 65532
_DNS = f"""\
dns_servers = ["{GATEWAY}"]
dns_searches = ["{DOMAIN}"]
dns_options = ["ndots:5"]
"""
_PROBE_TIMEOUT_S = 3.0
# What running pods takes besides what building images takes.
_TOOLS = ("dnsmasq", "ip", "nsenter")


class CanNotRunError(Exception):
    """This machine runs no pods; says what it lacks."""


def build(folder: Path) -> dict[str, str]:
    """The images, of this checkout; returns the environment of podman's commands. Raises ``CanNotRunError`` before that takes long."""
    tools = [tool for tool in _TOOLS if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None]
    if missing := local_images.missing_tools() + tools:
        raise CanNotRunError(f"it lacks {', '.join(missing)}")
    environment = local_images.podman_environment(folder)
    try:
        local_images.make_base(environment)
        command = ("podman", "run", "--rm", "--read-only", "--cap-drop", "all", local_images.BASE, "/bin/true")
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        raise CanNotRunError(f"{error.cmd[0]} fails here: {error.stderr or error}") from error
    local_images.build_images(environment)
    return environment


@dataclass(frozen=True, slots=True)
class Pod:
    """One that runs."""

    name: str
    workload: Workload
    host: Host

    @property
    def container(self) -> str:
        """What podman calls the service's container."""
        return f"{self.name}-{self.workload.main['name']}"

    def at(self, port: str) -> str:
        """``HOST:PORT`` of a named port."""
        return self.host.at(self.workload.ports[port])

    def is_ready(self) -> bool:
        """What its readiness probe says."""
        probe = self.workload.main["readinessProbe"]["grpc"]
        with grpc.insecure_channel(self.host.at(probe["port"])) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=probe["service"]), timeout=_PROBE_TIMEOUT_S
                )
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@dataclass
class Cluster:
    """Made by ``cluster_of``."""

    objects: Rendered
    network: PodNetwork
    folder: Path
    cache: Path
    more_arguments: Mapping[str, tuple[str, ...]]
    """By component."""
    pods: dict[str, Pod] = field(default_factory=dict)

    def workload(self, name: str) -> Workload:
        """By the name of what makes its pods."""
        (found,) = [workload for workload in self.objects.workloads if workload.owner["metadata"]["name"] == name]
        return found

    def start(self, name: str, number: int) -> Pod:
        """Another pod of a workload; it may not be ready yet."""
        workload = self.workload(name)
        pod = self.pods[f"{name}-{number}"] = Pod(f"{name}-{number}", workload, self.network.add())
        self._tell_dns()
        init = init_pod_of(workload, pod.name, self.cache)
        if init is not None:
            self._play(init, pod.host)
            for container in init["spec"]["containers"]:
                full_name = f"{init['metadata']['name']}-{container['name']}"
                if (code := int(self.podman("wait", full_name))) != 0:
                    raise RuntimeError(f"{full_name} ended with {code}: {self.podman('logs', full_name)}")
            self.podman("pod", "rm", "--force", init["metadata"]["name"])
        self._play(pod_of(workload, pod.name, self.cache, self.more_arguments.get(workload.component, ())), pod.host)
        return pod

    def start_all(self) -> None:
        """As many pods of each workload as its manifest says. Returns when all are ready."""
        for workload in self.objects.workloads:
            for number in range(workload.owner["spec"]["replicas"]):
                self.start(workload.owner["metadata"]["name"], number)
        wait_until(lambda: all(pod.is_ready() for pod in self.pods.values()))

    def kill(self, pod: Pod) -> None:
        """Its service ends at once, and is started again."""
        os.kill(int(self.podman("inspect", "--format", "{{.State.Pid}}", pod.container)), signal.SIGKILL)

    def num_restarts(self, pod: Pod) -> int:
        """How often its service was started again."""
        return int(self.podman("inspect", "--format", "{{.RestartCount}}", pod.container))

    def delete(self, pod: Pod) -> int:
        """As a rolling update does: SIGTERM, and SIGKILL after the grace period. Returns the service's exit code.

        Without the preStop hook, which waits until other nodes have heard of it: there are none. DNS has the address to the end, as
        a headless Service with ``publishNotReadyAddresses`` gives it.
        """
        grace_s = pod.workload.spec["terminationGracePeriodSeconds"]
        self.podman("stop", "--time", str(grace_s), pod.container)
        code = int(self.podman("inspect", "--format", "{{.State.ExitCode}}", pod.container))
        self.podman("pod", "rm", "--force", pod.name)
        del self.pods[pod.name]
        self._tell_dns()
        self.network.remove(pod.host)
        return code

    def podman(self, *arguments: str) -> str:
        """What a command prints. Raises ``RuntimeError``."""
        return self._run("podman", *arguments)

    def print_logs(self) -> None:
        """What all pods have said."""
        for pod in self.pods.values():
            with contextlib.suppress(RuntimeError):
                print(f"--- {pod.name}\n{self.podman('logs', pod.container)}")

    def close(self) -> None:
        """Ends all pods at once."""
        for pod in self.pods.values():
            with contextlib.suppress(RuntimeError):
                self.podman("pod", "rm", "--force", "--time", "0", pod.name)
            self.network.remove(pod.host)

    def _play(self, pod: Manifest, host: Host) -> None:
        file = self.folder / f"{pod['metadata']['name']}.yaml"
        file.write_text(yaml.safe_dump_all([*self.objects.of_kind("ConfigMap"), pod]))
        namespace = f"--net=/run/netns/{host.namespace}"
        self._run("nsenter", namespace, "podman", "play", "kube", "--network", "host", str(file))

    def _tell_dns(self) -> None:
        self.network.publish({
            service["metadata"]["name"]: [
                pod.host.ip for pod in self.pods.values() if service["spec"]["selector"].items() <= pod.workload.labels.items()
            ]
            for service in self.objects.of_kind("Service")
        })  # fmt: skip

    def _run(self, *command: str) -> str:
        environment = os.environ | {"CONTAINERS_CONF": str(self.folder / "containers.conf")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout + done.stderr if command[1] == "logs" else done.stdout


@contextlib.contextmanager
def cluster_of(
    objects: Rendered, network: PodNetwork, folder: Path, model: Path, more_arguments: Mapping[str, tuple[str, ...]]
) -> Iterator[Cluster]:
    """An overlay's pods, all ready. ``model`` lies in their caches already: they reach no hub."""
    (folder / "containers.conf").write_text(local_images.CONTAINERS_CONF.replace("[engine]", f"{_DNS}[engine]"))
    cache = folder / "cache"
    shutil.copytree(model, cache / model.name)
    for path in (cache, *cache.rglob("*")):
        os.chown(path, USER, USER)
    cluster = Cluster(objects, network, folder, cache, more_arguments)
    try:
        cluster.start_all()
        yield cluster
    finally:
        cluster.close()
