"""Where the HTTP server listens, and what its document promises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from router.__main__ import config_of
from router.app import RouterApp
from router.config import HttpConfig, RouterConfig
from specgrove.errors import UnauthorizedError
from specgrove.serving.key_file import ApiKey, hash_of
from tests.addresses import taken_address
from tests.certificates import make_certificates
from tests.router.http.asking import ask, http_address, http_suite, text_of
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S


async def version_at(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
    writer.write(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        content = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    if not content:
        raise ConnectionError("hung up")
    return json.loads(content)


async def test_an_address_that_is_taken_is_told() -> None:
    with taken_address() as address:
        app = RouterApp(RouterConfig(llm_addresses=("127.0.0.1:1",), http=HttpConfig(address)))
        assert app.http is not None
        with pytest.raises(OSError, match=f"can't listen on {address}: another server does"):
            await app.http.start()
        await app.http.stop()


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    async with toy_suite(http=HttpConfig(f"unix:{path}")):
        assert "version" in (await version_at(*await asyncio.open_unix_connection(path)))  # type: ignore[operator]
    assert not path.exists()


async def test_tls_is_that_of_grpc(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    local = f"unix:{tmp_path}/router.sock"
    async with toy_suite(http=HttpConfig("127.0.0.1:0"), server_tls=certificates.server, local_address=local) as suite:
        host, port = http_address(suite).split(":")
        context = ssl.create_default_context(cafile=certificates.client.ca)
        with pytest.raises((ssl.SSLError, ConnectionError)):  # a certificate of the client is asked for
            await version_at(*await asyncio.open_connection(host, int(port), ssl=context))
        assert certificates.client.certificate is not None
        context.load_cert_chain(certificates.client.certificate, certificates.client.private_key)
        assert "version" in (await version_at(*await asyncio.open_connection(host, int(port), ssl=context)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"GET /", b"x" * 9999),
        (b"GET /version HTTP/1.1\r\nx: ", b"y" * 9999),
        (b"GET /version HTTP/1.1\r\n", b"x: y\r\n" * 999),
        # What may follow a body of unknown length: fields again.
        (b"POST /tokenize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"x: y\r\n" * 999),
    ],
    ids=["path", "one field", "fields", "trailer"],
)
async def test_a_head_without_end_ends_the_connection(head: bytes, more: bytes) -> None:
    async with http_suite() as suite:
        host, port = http_address(suite).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(more)
                    await writer.drain()
                    await asyncio.sleep(0)
        writer.close()
        assert "version" in (await version_at(*await asyncio.open_connection(host, int(port))))  # type: ignore[operator]


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("connection", ["Upgrade, HTTP2-Settings", "upgrade"])
async def test_an_offer_of_http_2_is_ignored_and_the_connection_stays(size: int, connection: str) -> None:
    """So asks Java's client. In pieces of any size; the second request is without the offer."""
    body = json.dumps({"prompt": "x", "max_tokens": 3, "seed": 0}).encode()
    offer = f"Connection: {connection}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAI\r\n"
    async with http_suite() as suite:
        host, port = http_address(suite).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        answers = []
        for more in (offer, ""):
            fields = f"Host: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            request = f"POST /v1/completions HTTP/1.1\r\n{more}{fields}\r\n".encode() + body
            for start in range(0, len(request), size):
                writer.write(request[start : start + size])
                await writer.drain()
                await asyncio.sleep(0)
            async with asyncio.timeout(LIMIT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200 ")
                (length,) = re.findall(rb"content-length: (\d+)", head)
                answers.append(json.loads(await reader.readexactly(int(length)))["choices"][0]["text"])
        writer.close()
        assert answers == [text_of(num_tokens=3, prompt="x")] * 2


@pytest.mark.parametrize("is_stream", [True, False])
async def test_an_answer_by_http_1_0_has_no_chunks_and_ends_with_the_connection(is_stream: bool) -> None:
    """So asks nginx by default, and ``ab``."""
    body = json.dumps({"prompt": "x", "max_tokens": 3, "seed": 0, "stream": is_stream}).encode()
    async with http_suite() as suite:
        host, port = http_address(suite).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"POST /v1/completions HTTP/1.0\r\n{fields}\r\n".encode() + body)
        async with asyncio.timeout(LIMIT_S):
            head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert b"transfer-encoding" not in head
        pieces = [json.loads(line[6:]) for line in content.split(b"\n\n")[:-2]] if is_stream else [json.loads(content)]
        assert "".join(piece["choices"][0]["text"] for piece in pieces) == text_of(num_tokens=3, prompt="x")
        assert not is_stream or content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/toy", "/version"])
async def test_head_is_get_without_a_body(path: str) -> None:
    """So ask load balancers and ``wget --spider``."""
    async with http_suite() as suite:
        whole, head = await ask(suite, path), await ask(suite, path, method="HEAD")
        assert (head.status, head.headers["content-length"]) == (200, str(len(whole.content)))
        assert head.content == b""
        assert (await ask(suite, "/tokenize", method="HEAD")).status == 405


async def test_a_slash_behind_a_path_changes_nothing() -> None:
    """A redirect would name the scheme that the router sees, behind a proxy not the client's."""
    async with http_suite(keys=("k",)) as suite:
        asked = {"authorization": "Bearer k"}
        assert (await ask(suite, "/v1/models/", headers=asked)).json["data"]
        assert (await ask(suite, "/v1/models/toy/", headers=asked)).json["id"] == "toy"
        body = {"prompt": "x", "max_tokens": 3, "seed": 0}
        reply = await ask(suite, "/v1/completions/", body, headers=asked)
        assert reply.json["choices"][0]["text"] == text_of(num_tokens=3, prompt="x")
        assert (await ask(suite, "/health/")).status == 200
        assert (await ask(suite, "/v1/completions/", body)).status == 401
        assert (await ask(suite, "/nope/", headers=asked)).status == 404


async def test_it_is_no_proxy() -> None:
    async with http_suite() as suite:
        host, port = http_address(suite).split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(LIMIT_S):
            assert b"400" in await reader.readline()
        writer.close()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# for tests\nabc\n\n {ApiKey('alice', hash_of('def')).line} \n")
    base = ["--llm", "localhost:1"]
    http = ["--http-address", "127.0.0.1:8000"]
    assert config_of(base).http is None
    assert config_of([*base, *http]).http == HttpConfig("127.0.0.1:8000")
    more = ["--api-key-file", str(keys), "--http-allowed-origins", "https://a.example, *"]
    more += ["--served-model-name", "mine, also/mine"]
    config = config_of([*base, *http, *more, "--tool-call-format", "mistral"])
    assert config.http == HttpConfig(
        "127.0.0.1:8000", ("https://a.example", "*"), "mistral", served_names=("mine", "also/mine")
    )
    assert config.api_keys is not None
    assert [config.api_keys.key_of(f"Bearer {key}").name for key in ("abc", "def")] == ["line-2", "alice"]
    for key in ("# for tests", "", "alice"):
        with pytest.raises(UnauthorizedError):
            config.api_keys.key_of(f"Bearer {key}")
    assert config.describes_itself
    assert config.http.has_metrics
    closed = config_of([*base, *http, "--reflection", "off", "--http-metrics", "off"])
    assert not closed.describes_itself
    assert closed.http is not None
    assert not closed.http.has_metrics
    assert config_of(base).api_keys is None
    keys.write_text("# none\n")
    wrong = {
        "needs --http-address": more,
        "holds no key": [*http, *more],
        "must be HOST:PORT": ["--http-address", "8000"],
        "No such file": [*http, "--api-key-file", str(tmp_path / "absent")],
    }
    for message, words in wrong.items():
        with pytest.raises(SystemExit):
            config_of([*base, *words])
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions", "/v1/chat/completions", "/v1/responses", "/generate/", "/tokenize", "/detokenize",
        "/v1/models/{model}",
    ],
)  # fmt: skip
async def test_the_openapi_document_is_kept(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up requests: each is answered with a status and a form that the document has, and none with a failure of the server."""
    import schemathesis  # here: importing it takes a second of every process of tests
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    # Requests that ask for very many outputs are made up now and then: short ones will do.
    monkeypatch.setattr("tests.router.toy_services.CONTEXT_LEN", 48)

    def check(suite: ToySuite) -> None:
        url = f"http://{http_address(suite)}"
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        (operation,) = [found.ok() for found in schema.get_all_operations() if found.ok().path == path]

        @settings(max_examples=10, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy())
        def answered_as_promised(case: schemathesis.Case) -> None:
            # What a value may be depends on the model: the document can't tell.
            case.call_and_validate(base_url=url, excluded_checks=[positive_data_acceptance], timeout=LIMIT_S)

        answered_as_promised()

    async with http_suite() as suite:
        await asyncio.to_thread(check, suite)


async def test_without_http_nothing_of_it_is_imported() -> None:
    program = "import sys, router.__main__, router.app; print({'fastapi', 'uvicorn'} & set(sys.modules))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert (await process.communicate())[0] == b"set()\n"
    async with toy_suite() as suite:
        assert suite.app.http is None
