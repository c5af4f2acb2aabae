"""Servers whose certificates are exchanged while they run, as cert-manager and Kubernetes exchange them: by gRPC and by HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from router.http.server import HttpServer
from specgrove.serving.server import Server
from specgrove.serving.tls import TlsFiles, channel_credentials
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from tests.certificates import Authority, SecretFolder
from tests.serving.toy_service import EchoServicer, server_of
from tests.waiting import LIMIT_S


@pytest.fixture
def old(tmp_path: Path) -> TlsFiles:
    return Authority(tmp_path / "old.pem").issue(tmp_path, "old-server")


@pytest.fixture
def new(tmp_path: Path) -> TlsFiles:
    return Authority(tmp_path / "new.pem").issue(tmp_path, "new-server")


@pytest.fixture
def secret(tmp_path: Path, old: TlsFiles) -> SecretFolder:
    return SecretFolder(tmp_path / "secret", old)


@pytest_asyncio.fixture
async def server(secret: SecretFolder) -> AsyncIterator[Server]:
    """It asks for certificates."""
    server = server_of(EchoServicer(), tls=secret.files)
    await server.start()
    yield server
    await server.stop(0)


@contextlib.asynccontextmanager
async def connection(server: Server, tls: TlsFiles) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(server.address, channel_credentials(tls), options) as channel:
        yield channel


async def call(channel: grpc.aio.Channel) -> None:
    await ssm_pb2_grpc.SsmServiceStub(channel).GetLoad(ssm_pb2.SsmServiceGetLoadRequest(), timeout=LIMIT_S)


async def is_let_in(server: Server, tls: TlsFiles) -> bool:
    async with connection(server, tls) as channel:
        try:
            await call(channel)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
            return False
        return True


async def test_new_connections_get_the_new_certificate_and_old_ones_live_on(
    server: Server, secret: SecretFolder, old: TlsFiles, new: TlsFiles
) -> None:
    async with connection(server, old) as in_use:
        await call(in_use)
        assert [await is_let_in(server, tls) for tls in (old, new)] == [True, False]
        secret.show(new)
        assert [await is_let_in(server, tls) for tls in (old, new)] == [False, True]
        await call(in_use)


async def test_clients_of_an_authority_that_was_taken_back_are_let_in_no_more(
    server: Server, secret: SecretFolder, old: TlsFiles, new: TlsFiles
) -> None:
    """The server's own certificate stays what it is."""
    of_new_client = replace(new, ca=old.ca)
    assert [await is_let_in(server, tls) for tls in (old, of_new_client)] == [True, False]
    secret.show(replace(old, ca=new.ca))
    assert [await is_let_in(server, tls) for tls in (old, of_new_client)] == [False, True]


async def test_new_files_that_are_no_good_are_told_and_the_old_ones_stay(
    server: Server, secret: SecretFolder, old: TlsFiles, new: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {
        "are no pair of PEM files": replace(new, private_key=old.private_key),
        "is no PEM file": replace(new, certificate=Path(__file__)),
        "expired on": Authority(tmp_path / "other.pem").issue(tmp_path, "late", num_days=-1),
    }
    for said, files in wrong.items():
        caplog.clear()
        secret.show(files)
        assert await is_let_in(server, old)
        assert await is_let_in(server, old)
        (record,) = (record for record in caplog.records if record.levelno == logging.ERROR)
        assert said in record.message
        assert "stays in use" in record.message
    secret.show(new)
    assert await is_let_in(server, new)


async def test_http_follows_too(secret: SecretFolder, old: TlsFiles, new: TlsFiles) -> None:
    server = HttpServer("127.0.0.1:0", _answering, secret.files)
    await server.start()
    reader, writer = await _connected(server, old)
    assert await _answer(reader, writer) == b"answered"
    secret.show(new)
    with pytest.raises(ssl.SSLError):
        await _connected(server, old)
    for_new = await _connected(server, new)
    assert await _answer(*for_new) == b"answered"
    assert await _answer(reader, writer) == b"answered"
    # A client's certificate of an authority that was taken back: told when it has been looked at, which is after the handshake.
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        await _answer(*await _connected(server, replace(old, ca=new.ca)))
    secret.show(replace(new, private_key=old.private_key))
    assert await _answer(*await _connected(server, new)) == b"answered"
    for connected in (writer, for_new[1]):
        connected.close()
    await server.stop()


async def _answering(scope: object, receive: object, send: object) -> None:
    headers = [(b"content-length", b"8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})  # type: ignore[operator]
    await send({"type": "http.response.body", "body": b"answered"})  # type: ignore[operator]


async def _connected(server: HttpServer, tls: TlsFiles) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = server.address.split(":")
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.load_cert_chain(str(tls.certificate), str(tls.private_key))
    return await asyncio.open_connection(host, int(port), ssl=context)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(8)
