"""``x-request-id``: each answer has one, by which the request is found in logs."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from router.request_ids import HEADER
from specgrove.telemetry.logs import JsonFormatter
from tests.router.generating import request_of
from tests.router.http.asking import PROMPT, ask, http_suite
from tests.router.toy_suite import ToySuite

COMPLETIONS = "/v1/completions"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite() -> AsyncIterator[ToySuite]:
    async with http_suite(origins=("http://page.example",)) as suite:
        yield suite


def _body(**fields: object) -> dict[str, object]:
    return {"prompt": PROMPT, "max_tokens": 2, **fields}


def _lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(line) for line in caplog.text.splitlines() if "router.request_log" in line]


@pytest.fixture(autouse=True)
def as_json(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.handler.setFormatter(JsonFormatter("router"))


async def test_a_request_without_one_gets_ours_the_same_as_in_logs(
    suite: ToySuite, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await ask(suite, COMPLETIONS, _body(n=2))
    ours = reply.headers[HEADER]
    assert len(ours) == 32
    assert reply.json["id"] == f"cmpl-{ours}"
    assert {str(line["request_id"]) for line in _lines(caplog)} == {ours, f"{ours}-2"}
    assert (await ask(suite, COMPLETIONS, _body())).headers[HEADER] != ours


async def test_the_clients_own_comes_back_and_stands_in_the_log(
    suite: ToySuite, caplog: pytest.LogCaptureFixture
) -> None:
    replies = [
        await ask(suite, COMPLETIONS, _body(stream=stream), headers={HEADER: "req_7:a/b"}) for stream in (False, True)
    ]
    assert [reply.headers[HEADER] for reply in replies] == ["req_7:a/b"] * 2
    ids, requests = [line["request_id"] for line in _lines(caplog)], [line["request"] for line in _lines(caplog)]
    assert len(set(ids)) == 2  # sessions of the same name would be one
    assert all(isinstance(request, dict) and request["client_request_id"] == "req_7:a/b" for request in requests)
    assert str(_lines(caplog)[0]["message"]).endswith("length (x-request-id req_7:a/b)")


@pytest.mark.parametrize("given", ["", " ", "a" * 129, "a b", "é", "a;b", 'a"', "<b>"])
async def test_what_is_no_id_is_left_out(given: str, suite: ToySuite) -> None:
    reply = await ask(suite, COMPLETIONS, _body(), headers={HEADER: given})
    assert reply.status == 200
    assert len(reply.headers[HEADER]) == 32


@pytest.mark.parametrize(
    ("path", "body", "status"), [("/nothing", {}, 404), (COMPLETIONS, {"prompt": ""}, 400), (COMPLETIONS, None, 405)]
)
async def test_errors_have_it_too(path: str, body: object, status: int, suite: ToySuite) -> None:
    reply = await ask(suite, path, body, headers={HEADER: "mine", "Origin": "http://page.example"})
    assert (reply.status, reply.headers[HEADER]) == (status, "mine")
    assert HEADER in reply.headers["access-control-expose-headers"].lower()


async def test_grpc_takes_it_from_the_metadata(suite: ToySuite, caplog: pytest.LogCaptureFixture) -> None:
    async for _ in suite.stub.Generate(request_of(max_tokens=1), metadata=((HEADER, "of-grpc"),)):
        pass
    (line,) = _lines(caplog)
    assert isinstance(line["request"], dict)
    assert line["request"]["client_request_id"] == "of-grpc"
