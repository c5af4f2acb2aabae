"""How clients connect: TLS, certificates, tokens, and a keepalive that any gRPC server tolerates. Real sockets, a made-up router."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from specgrove.client import AsyncClient, Client
from specgrove.client.connections import AsyncConnection
from specgrove.client.retries import RetryPolicy
from specgrove.errors import (
    InternalError,
    InvalidRequestError,
    SpecGroveError,
    UnauthorizedError,
    UnavailableError,
)
from specgrove.serving.address import client_channel_options
from specgrove.serving.health import Health
from specgrove.serving.server import Server
from specgrove.serving.tls import TlsFiles
from specgrove.v1 import router_pb2_grpc
from tests.certificates import Authority, Certificates, SecretFolder, make_certificates
from tests.fake_router import FakeRouter
from tests.waiting import LIMIT_S


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def server_of(fake: FakeRouter, tls: TlsFiles | None = None) -> Server:
    return Server(
        "127.0.0.1:0",
        lambda server: router_pb2_grpc.add_RouterServiceServicer_to_server(fake, server),
        health=Health(()),
        tls=tls,
    )


@pytest.fixture
async def tls_address(certificates: Certificates) -> AsyncIterator[str]:
    server = server_of(FakeRouter(), replace(certificates.server, ca=None))
    yield await server.start()
    await server.stop(0)


@pytest.fixture
async def mutual_tls_address(certificates: Certificates) -> AsyncIterator[str]:
    server = server_of(FakeRouter(), certificates.server)
    yield await server.start()
    await server.stop(0)


def _complete(address: str, tls: TlsFiles | None) -> str:
    with Client(address, tls=tls) as client:
        return client.complete("hi", timeout_s=LIMIT_S).text


async def test_a_client_trusts_the_authority_it_is_given(tls_address: str, certificates: Certificates) -> None:
    tls = TlsFiles(ca=certificates.client.ca)
    assert await asyncio.to_thread(_complete, tls_address, tls) == "The quick brown fox"
    async with AsyncClient(tls_address, tls=tls) as client:
        assert (await client.complete("hi", timeout_s=LIMIT_S)).text == "The quick brown fox"


async def test_a_router_in_clear_is_told_to_a_client_by_tls() -> None:
    server = server_of(FakeRouter())
    address = await server.start()
    with pytest.raises(UnavailableError, match="the router speaks in clear, leave out tls"):
        await asyncio.to_thread(_complete, address, TlsFiles())
    await server.stop(0)


async def test_a_client_trusts_no_other_server(tls_address: str) -> None:
    with pytest.raises(UnavailableError):
        await asyncio.to_thread(_complete, tls_address, TlsFiles())
    with pytest.raises(UnavailableError):
        await asyncio.to_thread(_complete, tls_address, None)


async def test_a_server_that_asks_for_certificates_gets_them(
    mutual_tls_address: str, certificates: Certificates
) -> None:
    assert await asyncio.to_thread(_complete, mutual_tls_address, certificates.client) == "The quick brown fox"
    with pytest.raises(UnavailableError):
        await asyncio.to_thread(_complete, mutual_tls_address, TlsFiles(ca=certificates.client.ca))


def test_files_that_hold_no_certificates_are_told_at_once(certificates: Certificates, tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    with pytest.raises(ValueError, match=r"authority .*text\.pem is no PEM file"):
        Client("127.0.0.1:1", tls=TlsFiles(ca=text))
    pair = replace(certificates.client, certificate=text)
    with pytest.raises(ValueError, match=r"the certificate .*text\.pem is no PEM file"):
        Client("127.0.0.1:1", tls=pair)


def test_half_a_pair_and_missing_files_are_told_at_once(certificates: Certificates, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        Client("localhost:1", tls=TlsFiles(certificate=certificates.client.certificate))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        Client("localhost:1", tls=TlsFiles(ca=tmp_path / "nowhere.pem"))


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_a_client_whose_certificates_are_exchanged_goes_on(
    is_async: bool, certificates: Certificates, tmp_path: Path
) -> None:
    """With the authority: the server that comes back at the address has another one, and so has the client."""
    new = Authority(tmp_path / "new-ca.pem").issue(tmp_path, "new")
    secret = SecretFolder(tmp_path / "secret", certificates.client)

    async def complete() -> str:
        if is_async:
            return (await asyncs.complete("hi", timeout_s=LIMIT_S)).text
        return (await asyncio.to_thread(syncs.complete, "hi", timeout_s=LIMIT_S)).text

    server = server_of(FakeRouter(), certificates.server)
    address = await server.start()
    with Client(address, tls=secret.files) as syncs:
        async with AsyncClient(address, tls=secret.files) as asyncs:
            assert await complete() == "The quick brown fox"
            await server.stop(0)
            server = Server(address, server._register, health=Health(()), tls=new)
            await server.start()
            secret.show(new)
            assert await complete() == "The quick brown fox"
    await server.stop(0)


async def test_an_api_key_goes_with_every_call() -> None:
    seen: list[tuple[str, str | bytes | None]] = []

    class Watching(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation, details):  # type: ignore[no-untyped-def]
            seen.append((details.method.rpartition("/")[2], dict(details.invocation_metadata).get("authorization")))
            return await continuation(details)

    server = grpc.aio.server(interceptors=[Watching()])
    router_pb2_grpc.add_RouterServiceServicer_to_server(FakeRouter(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def call_all() -> None:
        with Client(f"127.0.0.1:{port}", api_key="secret") as client:
            client.complete("hi")
            client.model_info()
            client.tokenize("hi")
            client.detokenize([1])

    await asyncio.to_thread(call_all)
    async with AsyncClient(f"127.0.0.1:{port}", api_key="secret") as client:
        await client.complete("hi")
        await client.model_info()
        await client.tokenize("hi")
        await client.detokenize([1])
    assert seen == [(name, "Bearer secret") for name in ("Generate", "GetModelInfo", "Tokenize", "Detokenize")] * 2
    await server.stop(0)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, b"", UnauthorizedError),
        (grpc.StatusCode.PERMISSION_DENIED, b"", UnauthorizedError),
        (grpc.StatusCode.UNIMPLEMENTED, b"", InternalError),
        # Details that are none, as of a proxy that cuts them off.
        (grpc.StatusCode.INVALID_ARGUMENT, b"\xff\xff\xff", InvalidRequestError),
    ],
)
async def test_other_servers_answers_are_our_errors(
    code: grpc.StatusCode, details: bytes, expected: type[SpecGroveError]
) -> None:
    class Refusing(router_pb2_grpc.RouterServiceServicer):
        async def GetModelInfo(self, request, context):  # type: ignore[no-untyped-def]  # noqa: N802
            await context.abort(code, "no", trailing_metadata=(("grpc-status-details-bin", details),))

    server = grpc.aio.server()
    router_pb2_grpc.add_RouterServiceServicer_to_server(Refusing(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(expected, match="no"):
            await client.model_info()
    await server.stop(0)


@pytest.mark.parametrize("token", ["", "two words", "line\n", "é"])
def test_a_token_that_no_header_can_hold_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as info:
        Client("localhost:1", api_key=token)
    assert not token or token not in str(info.value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_api_key_in_clear_is_warned_of_where_it_leaves_this_machine(kind: Any) -> None:
    with pytest.warns(UserWarning, match=r"^the API key goes to router\.example:50051 in clear: connect by TLS$"):
        kind("router.example:50051", api_key="secret")
    with pytest.warns(UserWarning, match="in clear"):
        kind("dns:///10.0.0.1:1", api_key="secret")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for address in ("localhost:1", "127.0.0.2:1", "[::1]:1", "dns:///localhost:1", "ipv4:127.0.0.1:1", "unix:/x"):
            kind(address, api_key="secret")
        kind("router.example:50051")
        kind("router.example:50051", tls=TlsFiles(), api_key="secret")


def test_default_servers_tolerate_our_keepalive() -> None:
    """The defaults of https://github.com/grpc/grpc/blob/master/doc/keepalive.md: pings 5 minutes apart, none without calls."""
    options = dict(client_channel_options())
    assert options["grpc.keepalive_time_ms"] > 5 * 60 * 1000
    assert options["grpc.keepalive_permit_without_calls"] == 0
    # Left at their defaults, of which servers know.
    assert "grpc.http2.max_pings_without_data" not in options
    assert "grpc.http2.min_ping_interval_without_data_ms" not in options


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_what_is_no_tls_no_api_key_and_no_policy_is_told_at_once(kind: Any) -> None:
    for retry in (3, True, {"max_num_retries": 3}, RetryPolicy):
        with pytest.raises(ValueError, match="retry must be a RetryPolicy"):
            kind("host:1", retry=retry)
    for tls in (True, "ca.pem"):
        with pytest.raises(ValueError, match="tls must be TlsFiles"):
            kind("host:1", tls=tls)
    with pytest.raises(ValueError, match="ca must be the path of a PEM file, got bytes"):
        kind("host:1", tls=TlsFiles(ca=b"ca.pem"))  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        kind("host:1", tls=TlsFiles(ca="not-there.pem"))  # type: ignore[arg-type]
    for address in ("ho\0st:1", b"host:1"):
        with pytest.raises(ValueError, match="address must be"):
            kind(address)
    for token in (5, b"secret", "two words"):
        with pytest.raises(ValueError, match="an API key must be printable ASCII"):
            kind("host:1", api_key=token)


async def test_channels_that_two_threads_make_at_once_are_both_kept() -> None:
    connection = AsyncConnection("localhost:1", None)
    loops: list[asyncio.AbstractEventLoop] = []

    async def ask() -> None:
        loops.append(asyncio.get_running_loop())
        with connection.router():
            pass

    class Ended:
        """The loop of before: while one thread looks whether it is closed, another asks for its first channel."""

        def is_closed(self) -> bool:
            if len(loops) == 1:
                thread = threading.Thread(target=lambda: asyncio.run(ask()))
                thread.start()
                thread.join(LIMIT_S)
            return True

    connection._channels[Ended()] = None  # type: ignore[index, assignment]
    await ask()
    assert len(loops) == 2
    assert set(connection._channels) == set(loops)
    await connection.close()


async def test_a_call_that_fails_while_its_client_is_closed_opens_no_channel() -> None:
    connection = AsyncConnection("localhost:1", None)
    metadata = grpc.aio.Metadata()
    details = "failed to connect to all addresses; last error: Connection refused"

    async def fail() -> None:
        with connection.router():
            await connection.close()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, metadata, metadata, details)

    with pytest.raises(UnavailableError):
        await fail()
    assert not connection._channels
