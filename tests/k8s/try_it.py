"""``python -m tests.k8s.try_it [OVERLAY]``: the overlay's pods on podman, until Ctrl-C. As root, with what ``make k8s-tools`` installs.

For overlays that run on a small machine without a GPU; by default `cpu-demo`.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from tests.k8s.manifests import rendered
from tests.k8s.pod_network import pod_network
from tests.k8s.podman_cluster import CanNotRunError, build, cluster_of


def main(overlay: str = "cpu-demo") -> None:
    """Returns at Ctrl-C, with nothing left running."""
    model = resolve_model(DEMO_LLM, cache_dir=default_cache_dir(), progress=print)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            build(folder)
        except CanNotRunError as error:
            sys.exit(f"no pods run on this machine: {error}")
        with pod_network(folder) as network, cluster_of(rendered(overlay), network, folder, model, {}) as cluster:
            for pod in cluster.pods.values():
                print(f"{pod.name:16} " + ", ".join(f"{port} {pod.at(port)}" for port in pod.workload.ports))
            print("all are ready; Ctrl-C ends them", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
