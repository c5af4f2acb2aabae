"""A real API server with its etcd, for tests: what it refuses, and what it warns of, no schema tells.

Their programs are where KUBEBUILDER_ASSETS says, as for the tests of Kubernetes' operators: `setup-envtest use` of controller-runtime
fetches them, or they are built of Kubernetes' source. There is nothing behind the server: no controllers, no nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.addresses import free_address
from tests.k8s import crds
from tests.k8s.manifests import Manifest
from tests.waiting import wait_until
from tools.k8s_plain import kubectl

_TOKEN = "of-the-tests"
_PROGRAMS = ("etcd", "kube-apiserver")


def missing() -> str | None:
    """Why no API server can be started here; ``None`` where it can."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    if folder is None:
        return "KUBEBUILDER_ASSETS, the folder of etcd and kube-apiserver, is not set"
    absent = [name for name in _PROGRAMS if not os.access(Path(folder) / name, os.X_OK)]
    return f"{folder} lacks {', '.join(absent)}" if absent else None


@dataclass(frozen=True)
class ApiServer:
    """One that runs, at ``address``."""

    address: str
    folder: Path

    def kubectl(self, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        """What a command does; warnings are errors."""
        command = [
            str(kubectl()), "--server", f"https://{self.address}", "--token", _TOKEN, "--insecure-skip-tls-verify",
            "--cache-dir", str(self.folder / "cache"), "--warnings-as-errors", *words,
        ]  # fmt: skip
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"KUBECONFIG": "/dev/null"},
        )

    def apply(self, manifests: Iterable[Manifest], *, for_real: bool = False) -> str:
        """What is wrong with them, as the server says; empty where it takes them. They are kept only where that is asked for."""
        dry = [] if for_real else ["--dry-run=server"]
        listed = {"apiVersion": "v1", "kind": "List", "items": [*manifests]}
        done = self.kubectl("apply", "--server-side", "--validate=strict", *dry, "-f", "-", text=json.dumps(listed))
        return done.stderr if done.returncode else ""

    def is_ready(self) -> bool:
        request = urllib.request.Request(
            f"https://{self.address}/readyz", headers={"Authorization": f"Bearer {_TOKEN}"}
        )
        try:
            with urllib.request.urlopen(request, context=ssl._create_unverified_context(), timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """One that knows the kinds of others, as kept in tests/k8s/crds. Its files are in ``folder``."""
    programs = Path(os.environ["KUBEBUILDER_ASSETS"])
    (folder / "tokens").write_text(f"{_TOKEN},admin,1,system:masters\n")
    subprocess.run(["openssl", "genrsa", "-out", "accounts.key", "2048"], cwd=folder, check=True, capture_output=True)
    etcd, peers, address = (free_address() for _ in range(3))
    host, _, port = address.rpartition(":")
    flags: Mapping[str, Mapping[str, str]] = {
        "etcd": {
            "data-dir": "etcd", "listen-client-urls": f"http://{etcd}", "advertise-client-urls": f"http://{etcd}",
            "listen-peer-urls": f"http://{peers}", "unsafe-no-fsync": "true",
        },
        "kube-apiserver": {
            "etcd-servers": f"http://{etcd}", "cert-dir": "certificates", "bind-address": host, "secure-port": port,
            "token-auth-file": "tokens", "authorization-mode": "RBAC", "service-cluster-ip-range": "10.0.0.0/24",
            "service-account-issuer": "https://localhost", "service-account-key-file": "accounts.key",
            "service-account-signing-key-file": "accounts.key",
        },
    }  # fmt: skip
    server = ApiServer(address, folder)
    with contextlib.ExitStack() as running:
        for name in _PROGRAMS:
            words = [str(programs / name), *(f"--{flag}={value}" for flag, value in flags[name].items())]
            log = running.enter_context((folder / f"{name}.log").open("w"))
            process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
            running.callback(process.wait)
            running.callback(process.terminate)
        wait_until(lambda: process.poll() is not None or server.is_ready())
        assert process.poll() is None, (folder / "kube-apiserver.log").read_text()[-2000:]
        definitions = [*crds.definitions()]
        if errors := server.apply(definitions, for_real=True):
            raise RuntimeError(errors)
        names = [f"crd/{found['metadata']['name']}" for found in definitions]
        done = server.kubectl("wait", "--for=condition=Established", "--timeout=300s", *names)
        assert done.returncode == 0, done.stderr
        yield server
