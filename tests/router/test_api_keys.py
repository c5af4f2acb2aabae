"""Who has no key gets nothing from a router that has some, by gRPC as by HTTP; but health, reflection and its own machine's address.

What keys may take is in ``test_key_limits``, what their file may hold in ``tests/serving/test_key_file``.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from router.app import _warn_of_clear_keys
from router.config import HttpConfig, RouterConfig
from specgrove.client import AsyncClient
from specgrove.errors import UnauthorizedError
from specgrove.inference import open_inference_pb2, open_inference_pb2_grpc
from specgrove.serving.api_keys import ApiKeys
from specgrove.v1 import router_pb2
from tests.router.http.asking import ask, http_suite
from tests.router.toy_suite import toy_suite
from tests.waiting import LIMIT_S

KEYS = ApiKeys.of_texts(("first-key", "second-key"))
WRONG: dict[str, tuple[tuple[str, str], ...]] = {
    "an API key is needed: send 'authorization: Bearer KEY'": (),
    "the API key is none that is known here": (("authorization", "Bearer first-kez"),),
    "an API key is needed in the form 'authorization: Bearer KEY'": (("authorization", "Basic first-key"),),
}


@pytest.mark.parametrize(("said", "metadata"), WRONG.items())
async def test_calls_without_a_right_key_are_refused_before_anything_is_done(
    said: str, metadata: tuple[tuple[str, str], ...]
) -> None:
    async with toy_suite(api_keys=KEYS) as suite:
        calls: dict[str, Any] = {
            "Generate": lambda: suite.stub.Generate(router_pb2.GenerateRequest(text="x"), metadata=metadata).read(),
            "GetModelInfo": lambda: suite.stub.GetModelInfo(router_pb2.GetModelInfoRequest(), metadata=metadata),
            "Tokenize": lambda: suite.stub.Tokenize(router_pb2.TokenizeRequest(text="x"), metadata=metadata),
            # What is no message at all is not even looked at.
            "bytes": lambda: suite.channel.unary_unary("/specgrove.v1.RouterService/Tokenize")(
                b"\xff", metadata=metadata
            ),
            "nothing": lambda: suite.channel.stream_unary("/specgrove.v1.RouterService/Tokenize")(
                iter(()), metadata=metadata, timeout=LIMIT_S
            ),
        }
        for call in calls.values():
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call()
            assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.UNAUTHENTICATED, said)
        assert not suite.llm.streams.num_pending_items


async def test_every_key_opens_all_calls() -> None:
    async with toy_suite(api_keys=KEYS) as suite:
        for key in ("first-key", "second-key"):
            async with AsyncClient(suite.app.server.address, api_key=key) as client:
                assert (await client.complete("x", max_tokens=3, timeout_s=LIMIT_S)).text
                assert (await client.model_info()).ssms
        async with AsyncClient(suite.app.server.address, api_key="third-key") as client:
            with pytest.raises(UnauthorizedError, match="none that is known here"):
                await client.complete("x", timeout_s=LIMIT_S)


async def test_health_and_reflection_need_none() -> None:
    async with toy_suite(api_keys=KEYS) as suite:
        health = health_pb2_grpc.HealthStub(suite.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)).status
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = reflection_pb2_grpc.ServerReflectionStub(suite.channel).ServerReflectionInfo(asked, timeout=LIMIT_S)
        names = [service.name for service in (await answers.read()).list_services_response.service]
        assert "specgrove.v1.RouterService" in names


async def test_kserves_protocol_needs_a_key_but_for_its_health_checks() -> None:
    async with toy_suite(api_keys=KEYS) as suite:
        stub = open_inference_pb2_grpc.GRPCInferenceServiceStub(suite.channel)
        assert (await stub.ServerLive(open_inference_pb2.ServerLiveRequest(), timeout=LIMIT_S)).live
        await stub.ServerReady(open_inference_pb2.ServerReadyRequest(), timeout=LIMIT_S)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ServerMetadata(open_inference_pb2.ServerMetadataRequest(), timeout=LIMIT_S)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_local_address_needs_none_even_where_the_public_one_is_a_socket_too(tmp_path: Path) -> None:
    public, local = f"unix:{tmp_path}/public.sock", f"unix:{tmp_path}/local.sock"
    async with toy_suite(api_keys=KEYS, address=public, local_address=local):
        async with AsyncClient(local) as client:
            assert (await client.complete("x", max_tokens=3, timeout_s=LIMIT_S)).text
        async with AsyncClient(public) as client:
            with pytest.raises(UnauthorizedError):
                await client.model_info()


async def test_keys_that_come_and_go_while_the_router_runs(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("old-key\n")
    async with toy_suite(http=HttpConfig("127.0.0.1:0"), api_keys=ApiKeys.in_file(path)) as suite:

        async def lets_in(key: str) -> list[bool]:
            reply = await ask(suite, "/v1/models", headers={"authorization": f"Bearer {key}"})
            async with AsyncClient(suite.app.server.address, api_key=key) as client:
                (found,) = await asyncio.gather(client.model_info(), return_exceptions=True)
            return [reply.status == 200, not isinstance(found, UnauthorizedError)]

        assert [await lets_in("old-key"), await lets_in("newer-key")] == [[True, True], [False, False]]
        path.write_text("newer-key\n")
        assert [await lets_in("old-key"), await lets_in("newer-key")] == [[False, False], [True, True]]


async def test_a_key_is_never_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with http_suite(keys=("very-secret-right",)) as suite:
        for key in ("very-secret-right", "very-secret-wrong"):
            headers = {"authorization": f"Bearer {key}"}
            await ask(suite, "/v1/completions", {"prompt": "x", "max_tokens": 2}, headers=headers)
            async with AsyncClient(suite.app.server.address, api_key=key) as client:
                await asyncio.gather(client.complete("x", max_tokens=2), return_exceptions=True)
    assert "very-secret" not in caplog.text
    assert "very-secret" not in repr(RouterConfig((), api_keys=ApiKeys.of_texts(("very-secret",))))


async def test_the_apis_can_be_kept_from_describing_themselves() -> None:
    async with toy_suite(http=HttpConfig("127.0.0.1:0", has_metrics=False), describes_itself=False) as suite:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await reflection_pb2_grpc.ServerReflectionStub(suite.channel).ServerReflectionInfo(asked).read()
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        statuses = {path: (await ask(suite, path)).status for path in ("/docs", "/openapi.json", "/metrics", "/health")}
        assert statuses == {"/docs": 404, "/openapi.json": 404, "/metrics": 404, "/health": 200}


async def test_keys_in_clear_on_a_network_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for address, http, expected in (
        ("0.0.0.0:1", None, ["0.0.0.0:1"]), ("127.0.0.1:1", None, []), ("unix:/x", HttpConfig("10.0.0.1:2"), ["10.0.0.1:2"]),
    ):  # fmt: skip
        caplog.clear()
        _warn_of_clear_keys(RouterConfig((), address=address, http=http, api_keys=KEYS))
        _warn_of_clear_keys(RouterConfig((), address=address, http=http))
        assert [record.args for record in caplog.records] == [(address,) for address in expected]
