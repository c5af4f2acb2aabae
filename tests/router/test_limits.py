"""What one client can do to others: streams that nobody reads, requests without end, floods of text calls. Real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from specgrove.errors import DeadlineExceededError, InvalidRequestError, ResourceExhaustedError
from specgrove.serving.status import error_from_rpc
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2, router_pb2_grpc, token_tree_pb2
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import toy_output
from tests.router.toy_services import ToyLlm, halting_llm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until

# A client that leaves its streams unread makes room for a few messages only.
UNREAD = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))


def long_request() -> router_pb2.GenerateRequest:
    """About 200 KB of output."""
    return request_of(max_tokens=480, sampling=token_tree_pb2.SamplingParams(seed=0, num_log_probs=20))


def other_stub(suite: ToySuite) -> tuple[grpc.aio.Channel, Any]:
    channel = grpc.aio.insecure_channel(suite.app.server.address, options=UNREAD)
    return channel, router_pb2_grpc.RouterServiceStub(channel)


async def test_streams_that_nobody_reads_end_and_give_their_permits_back() -> None:
    settings = {"max_num_requests": 2, "max_num_per_connection": 2, "reader_timeout_s": 0.3}
    async with toy_suite(halting_llm(0), **settings) as suite:
        channel, stub = other_stub(suite)
        calls = [stub.Generate(long_request()) for _ in range(2)]
        await until(lambda: suite.app.admission.num_active == 2)
        suite.llm.gate.set()
        await until(lambda: suite.app.admission.num_active == 0)
        await until(lambda: not suite.llm.sessions)
        suite.app.server._guard._write_timeout_s = LIMIT_S  # this client reads, though its machine may be slow
        assert token_ids_of(await responses_to(suite, request_of())) == toy_output(PROMPT, 60)
        # Whoever reads after all is told.
        with pytest.raises(grpc.aio.AioRpcError) as info:
            async for _ in calls[0]:
                pass
        error = error_from_rpc(info.value)
        assert isinstance(error, DeadlineExceededError)
        assert "the client has read nothing for 0.3 s" in str(error)
        await channel.close()


async def test_one_connection_never_holds_all_permits() -> None:
    async with toy_suite(max_num_requests=4, reader_timeout_s=3600) as suite:
        channel, stub = other_stub(suite)
        calls = [stub.Generate(long_request()) for _ in range(8)]
        await until(lambda: suite.app.admission.num_active == 3 and suite.app.admission.num_queued == 5)
        assert token_ids_of(await responses_to(suite, request_of())) == toy_output(PROMPT, 60)
        assert suite.app.admission.num_active == 3
        for call in calls:
            call.cancel()
        await channel.close()
        await until(lambda: suite.app.admission.num_active == 0)


async def test_a_request_may_take_no_longer_than_the_router_says() -> None:
    async with toy_suite(ToyLlm(step_s=0.02), max_request_s=0.2) as suite:
        request = request_of(max_tokens=400, speculation=router_pb2.SpeculationOptions(disabled=True))
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await responses_to(suite, request)
        assert isinstance(error_from_rpc(info.value), DeadlineExceededError)
        await until(lambda: suite.app.admission.num_active == 0)


async def test_the_permit_comes_before_tokenising(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    encode = Tokenizer.encode

    def recorded(tokenizer: Tokenizer, text: str, max_num_tokens: int | None = None) -> list[int]:
        texts.append(text)
        return encode(tokenizer, text, max_num_tokens)

    monkeypatch.setattr(Tokenizer, "encode", recorded)
    async with toy_suite(halting_llm(0), max_num_requests=1, max_num_queued=1) as suite:
        first = asyncio.create_task(responses_to(suite, request_of(max_tokens=30, text="first")))
        await until(lambda: texts == ["first"])
        second = asyncio.create_task(responses_to(suite, request_of(max_tokens=3, text="second")))
        await until(lambda: suite.app.admission.num_queued == 1)
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await responses_to(suite, request_of(text="third"))
        assert isinstance(error_from_rpc(info.value), ResourceExhaustedError)
        assert texts == ["first"]
        # What is plainly wrong is told at once, however full the router is.
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await responses_to(suite, request_of(text=""))
        assert isinstance(error_from_rpc(info.value), InvalidRequestError)
        suite.llm.gate.set()
        await asyncio.gather(first, second)
        assert texts == ["first", "second"]


async def test_a_message_over_the_public_limit_is_refused() -> None:
    async with toy_suite(max_request_bytes=4096) as suite:
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await suite.stub.Tokenize(router_pb2.TokenizeRequest(text="x" * 5000))
        assert isinstance(error_from_rpc(info.value), InvalidRequestError)
        assert (await suite.stub.Tokenize(router_pb2.TokenizeRequest(text="x" * 400))).token_ids


async def test_a_refused_prompt_gives_its_permit_back(suite: ToySuite) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await responses_to(suite, request_of(text="x" * 512))
    assert isinstance(error_from_rpc(info.value), InvalidRequestError)
    assert suite.app.admission.num_active == 0


async def _outcome(suite: ToySuite) -> list[router_pb2.GenerateResponse] | grpc.aio.AioRpcError:
    try:
        return await responses_to(suite, request_of(max_tokens=5))
    except grpc.aio.AioRpcError as error:
        return error


async def test_a_burst_over_one_connection_is_told_when_to_try_again() -> None:
    async with toy_suite(halting_llm(0), max_num_requests=4, max_num_queued=4) as suite:
        calls = [asyncio.create_task(_outcome(suite)) for _ in range(300)]
        await until(lambda: sum(call.done() for call in calls) >= 292)  # 4 are served, 4 wait
        suite.llm.gate.set()
        outcomes = await asyncio.gather(*calls)
        refused = [error_from_rpc(outcome) for outcome in outcomes if isinstance(outcome, grpc.aio.AioRpcError)]
        assert {type(error) for error in refused} == {ResourceExhaustedError}
        served = [outcome for outcome in outcomes if isinstance(outcome, list)]
        assert len(served) + len(refused) == 300
        assert all(token_ids_of(responses) == toy_output(PROMPT, 5) for responses in served)
