"""mTLS between the router and its services: who gets together, what is said where they don't, and certificates that change."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from llm_service.arguments import parse_arguments
from router.__main__ import config_of
from specgrove.addresses import ReplicaAddress
from specgrove.serving import work_stream_client
from specgrove.serving.replica_channel import ReplicaChannel, ServicesTls
from specgrove.serving.tls import TlsFiles, services_tls
from specgrove.serving.work_stream_client import WorkStreamClient
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from tests.certificates import Authority, SecretFolder
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_suite import toy_suite
from tests.serving.toy_service import EchoServicer, result_of, server_of
from tests.waiting import until

Client = WorkStreamClient[ssm_pb2.DraftItem, ssm_pb2.DraftResult]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ca.pem")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "foreign.pem")


@pytest.fixture
def of_service(authority: Authority, tmp_path: Path) -> TlsFiles:
    return authority.issue(tmp_path, "service")


@pytest.fixture
def of_router(authority: Authority, tmp_path: Path) -> TlsFiles:
    return authority.issue(tmp_path, "router", "DNS:router.example")


@contextlib.asynccontextmanager
async def client_of(target: str, tls: TlsFiles | None, server_name: str | None = None) -> AsyncIterator[Client]:
    client = Client(
        ReplicaAddress(target, server_name),
        lambda channel: ssm_pb2_grpc.SsmServiceStub(channel).Draft(),
        ssm_pb2.DraftRequest,
        tls=None if tls is None else ServicesTls(tls),
    )
    client.start()
    yield client
    await client.close()


async def drafts(client: Client) -> bool:
    return bool((await result_of(client, ssm_pb2.DraftItem(session_id="a", base=2, new_token_ids=[1]))).draft.base == 3)


async def test_all_three_services_together(of_service: TlsFiles, of_router: TlsFiles) -> None:
    async with toy_suite(services_tls=of_router, service_files=of_service) as suite:
        assert token_ids_of(await responses_to(suite, request_of(max_tokens=20))) == toy_output(PROMPT, 20)


@pytest.mark.parametrize("place", ["tcp", "name", "unix"])
async def test_the_name_that_counts(
    place: str, authority: Authority, of_router: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The address' host; the name that it was found by; for a unix socket localhost."""
    right, wrong = {
        "tcp": ("IP:127.0.0.1", "DNS:localhost"),
        "name": ("DNS:llm.specgrove.svc", "IP:127.0.0.1"),
        "unix": ("DNS:localhost", "DNS:llm.specgrove.svc"),
    }[place]
    address = f"unix:{tmp_path}/s.sock" if place == "unix" else "127.0.0.1:0"
    server_name = "llm.specgrove.svc" if place == "name" else None
    for hosts in (right, wrong):
        server = server_of(EchoServicer(), address, tls=authority.issue(tmp_path, place, hosts))
        async with client_of(await server.start(), of_router, server_name) as client:
            if hosts == right:
                await client.connected.wait()
                assert await drafts(client)
            else:
                await until(lambda: "not connected yet" in caplog.text)
                name = {"tcp": "127.0.0.1", "name": "llm.specgrove.svc", "unix": "localhost"}[place]
                assert f"TLS: its certificate is not for {name}" in caplog.text
        await server.stop(0)


async def test_what_does_not_fit_is_said_in_one_clear_line(
    authority: Authority,
    foreign: Authority,
    of_service: TlsFiles,
    of_router: TlsFiles,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(work_stream_client, "_NUM_QUIET_ATTEMPTS", 1)
    caplog.set_level(logging.INFO)
    late = authority.issue(tmp_path, "late")
    authority.issue(tmp_path, "expired", num_days=-1)
    expired = replace(late, certificate=tmp_path / "expired.pem", private_key=tmp_path / "expired.key")
    of_foreigner = replace(foreign.issue(tmp_path, "foreigner"), ca=authority.path)
    cases: dict[str, tuple[TlsFiles | None, TlsFiles | None]] = {
        "TLS: it speaks in clear; give it --tls-certificate and --tls-private-key": (None, of_router),
        "Socket closed; if it asks for TLS, give --services-tls-ca": (of_service, None),
        "it hung up; if it asks for a certificate, give --services-tls-certificate": (
            of_service, TlsFiles(ca=authority.path),
        ),
        f"TLS: its certificate is of no authority in --services-tls-ca {foreign.path}: unable to get": (
            of_service, replace(of_router, ca=foreign.path),
        ),
        "it hung up; its --tls-client-ca must be the authority of --services-tls-certificate": (
            of_service, of_foreigner,
        ),
    }  # fmt: skip
    for said, (service, router) in cases.items():
        caplog.clear()
        server = server_of(EchoServicer(), tls=service)
        async with client_of(await server.start(), router) as client:
            await until(lambda: "not connected yet" in caplog.text)
            (record,) = (record for record in caplog.records if "not connected yet" in record.message)
            assert record.message.startswith(f"{client.address}: not connected yet: {said}")
            assert "\n" not in record.message
        await server.stop(0)
    with pytest.raises(ValueError, match=r"--services-tls-certificate .*expired.pem: expired on "):
        ServicesTls(expired)


async def test_certificates_that_expire_while_they_are_in_use(
    authority: Authority, of_service: TlsFiles, of_router: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each end in turn. As long as the files don't change, that is: nothing is read anew."""
    caplog.set_level(logging.INFO)
    late = authority.issue(tmp_path, "late", num_days=-1)
    for is_router in (True, False):
        caplog.clear()
        tls = ServicesTls(of_router)
        server = server_of(EchoServicer(), tls=of_service)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("specgrove.serving.tls.expired_on", lambda _: None)
            if is_router:
                tls = ServicesTls(late)
            else:
                server = server_of(EchoServicer(), tls=late)
            patch.setattr(work_stream_client, "_NUM_QUIET_ATTEMPTS", 1)
            client = Client(
                ReplicaAddress(await server.start()),
                lambda channel: ssm_pb2_grpc.SsmServiceStub(channel).Draft(),
                ssm_pb2.DraftRequest,
                tls=tls,
            )
            client.start()
            await until(lambda: "not connected yet" in caplog.text)
        if is_router:
            assert f"it hung up; --services-tls-certificate {late.certificate} expired on " in caplog.text
        else:
            assert "TLS: its certificate has expired" in caplog.text
        await client.close()
        await server.stop(0)


async def test_a_refusal_while_the_certificate_is_being_exchanged_is_told_too(of_router: TlsFiles) -> None:
    """What the channel uses was read before; what is at the path now may be half a file, or none."""
    channel = ReplicaChannel(ReplicaAddress("127.0.0.1:1"), ServicesTls(of_router))
    details = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"
    assert of_router.certificate is not None
    told = channel.cause_of(details)
    assert told.startswith("it hung up; its --tls-client-ca must be")
    of_router.certificate.write_text("-----BEGIN")
    assert channel.cause_of(details) == told
    of_router.certificate.unlink()
    assert channel.cause_of(details) == told
    await channel.close()


async def test_a_reconnect_takes_the_new_certificate_and_a_connection_in_use_lives_on(
    authority: Authority, foreign: Authority, of_router: TlsFiles, tmp_path: Path
) -> None:
    """All change their authority, as an operator who replaces it does."""
    new = foreign.issue(tmp_path, "new", "DNS:localhost,IP:127.0.0.1")
    of_service = SecretFolder(tmp_path / "service-secret", authority.issue(tmp_path, "service"))
    secret = SecretFolder(tmp_path / "router-secret", of_router)
    server = server_of(EchoServicer(), tls=of_service.files)
    async with client_of(await server.start(), secret.files) as client:
        await client.connected.wait()
        secret.show(new)
        of_service.show(new)
        assert await drafts(client)
        assert client.num_losses == 0
        await server.stop(0)
        await until(lambda: client.num_losses == 1)
        server = server_of(EchoServicer(), server.address, tls=of_service.files)
        await server.start()
        await client.connected.wait()
        assert await drafts(client)
    await server.stop(0)


def test_half_a_configuration_and_wrong_files_are_told_before_anything_starts(
    of_router: TlsFiles, foreign: Authority, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    certificate, key, ca = map(str, of_router.paths)
    absent, text = str(tmp_path / "absent"), __file__
    router_cases = {
        "--services-tls-certificate needs --services-tls-ca": ["certificate", certificate, "private-key", key],
        "--services-tls-certificate and --services-tls-private-key go together": ["ca", ca, "certificate", certificate],
        f"--services-tls-ca {absent}: No such file": ["ca", absent],
        f"--services-tls-ca {text} is no PEM file": ["ca", text],
        "are no pair of PEM files": ["ca", ca, "certificate", certificate, "private-key", str(foreign.path)],
    }
    for said, words in router_cases.items():
        flags = [word if place % 2 else f"--services-tls-{word}" for place, word in enumerate(words)]
        with pytest.raises(SystemExit):
            config_of(["--llm", "a:1", *flags])
        assert said in capsys.readouterr().err.splitlines()[-1]
    for flags in (["--tls-certificate", certificate], ["--tls-client-ca", ca]):
        with pytest.raises(SystemExit):
            parse_arguments(flags)
        assert "--tls-certificate and --tls-private-key go together" in capsys.readouterr().err
    right = ["--services-tls-ca", ca, "--services-tls-certificate", certificate, "--services-tls-private-key", key]
    assert config_of(["--llm", "a:1", *right]).services_tls == of_router
    assert services_tls(None, None, None) is None
    assert parse_arguments(["--tls-certificate", certificate, "--tls-private-key", key]).tls == replace(
        of_router, ca=None
    )
