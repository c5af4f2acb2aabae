"""The component tls: its certificates, made here as cert-manager makes them, let routers in at the service they mean, and nobody else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from specgrove.serving import work_stream_client
from specgrove.serving.tls import TlsFiles
from tests.certificates import Authority
from tests.k8s.manifests import Rendered, composed
from tests.router.test_mutual_tls import client_of, drafts
from tests.serving.toy_service import EchoServicer, server_of
from tests.waiting import until

Issued = Callable[[str], TlsFiles]


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    return composed(tmp_path_factory.mktemp("tls"), ["tls"], resources=["overlays/cpu-demo"])


@pytest.fixture
def issued(suite: Rendered, tmp_path: Path) -> Issued:
    """Files of a Certificate by its name."""
    authority = Authority(tmp_path / "ca.pem")

    def issue(name: str) -> TlsFiles:
        spec = suite.named("Certificate", name)["spec"]
        hosts = ",".join(f"DNS:{host}" for host in spec["dnsNames"])
        return authority.issue(tmp_path, name, hosts, usages=tuple(spec["usages"]))

    return issue


async def test_routers_get_in_by_each_services_name(issued: Issued) -> None:
    for name in ("llm", "ssm-demo"):
        server = server_of(EchoServicer(), "127.0.0.1:0", tls=issued(name))
        async with client_of(await server.start(), issued("router-to-services"), name) as client:
            await client.connected.wait()
            assert await drafts(client)
        await server.stop(0)


async def test_a_services_certificate_opens_no_other_service(
    issued: Issued, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_stream_client, "_NUM_QUIET_ATTEMPTS", 1)
    caplog.set_level(logging.INFO)
    server = server_of(EchoServicer(), "127.0.0.1:0", tls=issued("llm"))
    async with client_of(await server.start(), issued("ssm-demo"), "llm") as client:
        await until(lambda: "hung up" in caplog.text)
        assert not client.connected.is_set()
    await server.stop(0)
