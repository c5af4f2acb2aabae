"""The chat page at ``/``: what is passed on to its process, what starts and ends that, and who may see it."""

from __future__ import annotations

import asyncio
import base64
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from router.__main__ import config_of
from router.app import RouterApp
from router.config import HttpConfig, RouterConfig
from specgrove.serving.api_keys import KEY_NAME_METADATA
from tests.certificates import make_certificates
from tests.router.http.asking import Reply, ask, http_address, http_suite, opened
from tests.router.toy_suite import ToySuite
from tests.waiting import LIMIT_S, until

BROWSER = {"accept": "text/html,*/*"}


@pytest.fixture(autouse=True)
def _fake_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.http.page_process.MODULE", "tests.router.http.fake_page")
    monkeypatch.setattr("router.http.page.is_gradio_installed", lambda: True)


@pytest_asyncio.fixture
async def suite() -> AsyncIterator[ToySuite]:
    async with http_suite() as suite:
        yield suite


async def page_of(suite: ToySuite, **headers: str) -> Reply:
    """The page, as a browser gets it that loads it again while it starts."""
    async with asyncio.timeout(LIMIT_S):
        while (reply := await ask(suite, "/", headers=BROWSER | headers)).status == 503:
            assert b"starting" in reply.content
            await asyncio.sleep(0.05)
    return reply


def process_of(suite: ToySuite) -> Any:
    assert suite.app._page is not None
    return suite.app._page._process


async def test_requests_are_passed_on_and_answers_come_back(suite: ToySuite) -> None:
    assert (await page_of(suite)).status == 203
    reply = await ask(
        suite, "/a%20b/c?d=%2F&e", b"text", headers={"host": "router.example", "x-own": "1", "x-forwarded-host": "evil.example"}
    )  # fmt: skip
    told = reply.json
    assert (told["method"], told["target"], told["body"]) == ("POST", "/a%20b/c?d=%2F&e", "text")
    assert (told["headers"]["host"], told["headers"]["x-own"]) == ("router.example", "1")
    assert told["headers"]["x-forwarded-proto"] == "http"
    assert "x-forwarded-host" not in told["headers"]
    assert told["router"] == suite.app.server.address
    assert reply.status == 203
    assert reply.headers["set-cookie"] == "b=2"  # the last of both
    assert reply.headers["date"] != "never"


async def test_the_api_keeps_its_paths(suite: ToySuite) -> None:
    for is_running in (False, True):
        if is_running:
            await page_of(suite)
        assert (await ask(suite, "/v1/models", headers=BROWSER)).json["object"] == "list"
        assert (await ask(suite, "/health", headers=BROWSER)).json == {"status": "serving"}
        assert (await ask(suite, "/v1/nothing", headers=BROWSER)).error["code"] == "not_found"
        assert (await ask(suite, "/tokenize", headers=BROWSER)).status == 405


async def test_only_a_browser_starts_the_page(suite: ToySuite) -> None:
    for path, headers in (("/", {}), ("/", {"accept": "*/*"}), ("/index.html", BROWSER)):
        assert (await ask(suite, path, headers=headers)).error["code"] == "not_found"
    assert process_of(suite).pid is None
    assert (await ask(suite, "/", headers=BROWSER)).status == 503
    assert process_of(suite).pid is not None


async def test_whoever_leaves_the_page_ends_what_was_passed_on(suite: ToySuite, tmp_path: Path) -> None:
    await page_of(suite)
    reader, writer = await opened(suite, f"/events?{tmp_path}/ended", b"", headers=BROWSER)
    async with asyncio.timeout(LIMIT_S):
        await reader.readuntil(b"data: 1\n\n")
    assert not (tmp_path / "ended").exists()
    writer.transport.abort()
    await until((tmp_path / "ended").exists)


async def test_a_page_that_ends_by_itself_is_told_and_not_started_again_at_once(
    suite: ToySuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.http.page_process._PAUSE_S", 1e9)
    await page_of(suite)
    pid = process_of(suite).pid
    assert (await ask(suite, "/end")).status == 503
    await until(lambda: process_of(suite).pid is None)
    reply = await ask(suite, "/", headers=BROWSER)
    assert reply.status == 503
    assert b"ended by itself" in reply.content
    monkeypatch.setattr("router.http.page_process._PAUSE_S", 0.0)
    assert (await page_of(suite)).status == 203
    assert process_of(suite).pid not in (None, pid)


async def test_the_page_ends_with_the_router() -> None:
    async with http_suite() as suite:
        await page_of(suite)
        process = process_of(suite)._process
        socket_path = Path(process_of(suite).socket_path)
        await until(socket_path.exists)
    assert process.returncode is not None
    await until(lambda: not socket_path.parent.exists())


async def test_other_pages_may_ask_nothing(suite: ToySuite) -> None:
    await page_of(suite)
    for header, value, status in (
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),  # another port of this machine
        ("sec-fetch-site", "same-origin", 203),
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("origin", "http://here.example:8000", 203),
    ):
        for content in (b"", b"{}"):
            reply = await ask(suite, "/x", content, headers={"host": "here.example:8000", header: value})
            assert reply.status == status, (header, value, content)


async def test_links_of_other_pages_lead_here(suite: ToySuite) -> None:
    await page_of(suite)
    headers = BROWSER | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert (await ask(suite, "/", headers=headers)).status == 203


async def test_a_body_of_unknown_size_is_bounded() -> None:
    async with http_suite(max_request_bytes=1000) as suite:
        await page_of(suite)
        host, _, port = http_address(suite).partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /x HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"400\r\n" + b"a" * 0x400 + b"\r\n0\r\n\r\n")
        async with asyncio.timeout(LIMIT_S):
            assert b" 413 " in await reader.readline()
        writer.close()


async def test_who_hangs_up_in_the_middle_of_a_body_is_no_defect(
    suite: ToySuite, caplog: pytest.LogCaptureFixture
) -> None:
    async def is_counted() -> bool:
        metrics = (await ask(suite, "/metrics")).content
        return b'specgrove_router_http_responses_total{endpoint="",status="400"} 1.0' in metrics

    await page_of(suite)
    with caplog.at_level(logging.WARNING):
        _, writer = await opened(suite, "/x", b"half", headers={"content-length": "8"})
        writer.close()
        async with asyncio.timeout(LIMIT_S):
            while not (await is_counted() or caplog.records):
                pass
    assert not caplog.records
    assert (await ask(suite, "/x", b"whole")).status == 203


async def test_a_key_is_asked_for_as_a_password(tmp_path: Path) -> None:
    def basic(text: str) -> str:
        return f"Basic {base64.b64encode(text.encode()).decode()}"

    local = f"unix:{tmp_path}/local.sock"  # on which clients of gRPC need no key
    async with http_suite(keys=("right", "other"), local_address=local) as suite:
        reply = await ask(suite, "/", headers=BROWSER)
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Basic ")
        for wrong in (basic("right:wrong"), basic("right"), "Basic %", "Basic", "Bearer wrong"):
            assert (await ask(suite, "/", headers={**BROWSER, "authorization": wrong})).status == 401
        assert process_of(suite).pid is None
        for right in (basic("me:right"), basic(":other"), "Bearer right"):
            reply = await page_of(suite, authorization=right)
            assert reply.status == 203
            assert reply.json["router"] == local
            assert "authorization" not in reply.json["headers"]
        # The page is told the name that the key has, and nothing that a browser says of it.
        forged = await page_of(suite, authorization=basic("me:other"), **{KEY_NAME_METADATA: "key-1"})
        assert forged.json["headers"][KEY_NAME_METADATA] == "key-2"
        # What describes the API needs no key; what is the page's does.
        assert [(await ask(suite, path)).status for path in ("/docs", "/openapi.json", "/redoc")] == [200, 200, 401]
        # Passwords are for the page: browsers send them along with whatever other sites ask.
        reply = await ask(suite, "/v1/models", headers={"authorization": basic("me:right")})
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")


async def test_without_keys_nobody_has_a_name(suite: ToySuite) -> None:
    assert KEY_NAME_METADATA not in (await page_of(suite, **{KEY_NAME_METADATA: "key-1"})).json["headers"]


async def test_where_the_api_describes_nothing_its_paths_are_the_pages_and_need_a_key(tmp_path: Path) -> None:
    local = f"unix:{tmp_path}/local.sock"
    async with http_suite(keys=("right",), local_address=local, describes_itself=False) as suite:
        await page_of(suite, authorization="Bearer right")
        for path in ("/docs", "/openapi.json"):
            assert [(await ask(suite, path, content)).status for content in (b"", b"{}")] == [401, 401]
        assert (await ask(suite, "/health")).status == 200


async def test_without_gradio_the_page_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.http.page.is_gradio_installed", lambda: False)
    async with http_suite() as suite:
        reply = await ask(suite, "/", headers=BROWSER)
        assert reply.status == 200
        assert b"pip install 'specgrove[web]'" in reply.content
        assert process_of(suite).pid is None
        reply = await ask(suite, "/")  # as curl asks
        assert reply.status == 404
        assert b"needs Gradio: pip install 'specgrove[web]'" in reply.content
        assert b"<" not in reply.content
        assert (await ask(suite, "/absent")).error["code"] == "not_found"


async def test_a_router_without_a_local_address_says_what_the_page_needs(tmp_path: Path) -> None:
    async with http_suite(keys=("right",)) as suite:
        reply = await ask(suite, "/", headers={**BROWSER, "authorization": "Bearer right"})
        assert reply.status == 200
        assert b"--local-address" in reply.content
    config = RouterConfig(
        llm_addresses=("127.0.0.1:1",), http=HttpConfig("127.0.0.1:0"), server_tls=make_certificates(tmp_path).server
    )
    app = RouterApp(config)
    assert app._page is not None
    assert app._page._process is None


async def test_the_page_may_be_turned_off() -> None:
    base = ["--llm", "localhost:1", "--http-address", "127.0.0.1:8000"]
    http = config_of(base).http
    assert http is not None
    assert http.has_page
    http = config_of([*base, "--http-chat-page", "off"]).http
    assert http is not None
    assert not http.has_page
    assert RouterApp(RouterConfig(llm_addresses=("127.0.0.1:1",), http=http))._page is None


def test_the_router_imports_nothing_of_the_page() -> None:
    program = (
        "import sys, router.http.app, router.http.page, router.http.page_process;"
        "print({'gradio', 'httpcore', 'specgrove.web', 'pandas'} & set(sys.modules))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
