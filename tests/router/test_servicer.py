"""The public API end to end over real sockets, with a toy model: outputs are exact, whatever goes wrong behind the router."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.errors import InvalidRequestError, ResourceExhaustedError
from specgrove.serving.status import error_from_rpc
from specgrove.token_tree import TokenTree
from specgrove.v1 import router_pb2, token_tree_pb2
from tests.router.toy_services import EOS, VOCAB_SIZE, ToyLlm, ToySsm, ToySuite, toy_next, toy_output, toy_suite
from tests.waiting import until

PROMPT = list(b"Hello, tree")


@pytest_asyncio.fixture
async def suite() -> AsyncIterator[ToySuite]:
    async with toy_suite() as suite:
        yield suite


def _request(**fields: Any) -> router_pb2.GenerateRequest:
    fields.setdefault("max_tokens", 60)
    fields.setdefault("sampling", token_tree_pb2.SamplingParams(seed=0))
    if not {"text", "chat", "token_ids"} & fields.keys():
        fields["text"] = bytes(PROMPT).decode()
    return router_pb2.GenerateRequest(**fields)


async def _responses(suite: ToySuite, request: router_pb2.GenerateRequest) -> list[router_pb2.GenerateResponse]:
    async with asyncio.timeout(20):
        return [response async for response in suite.stub.Generate(request)]


def _token_ids(responses: list[router_pb2.GenerateResponse]) -> list[int]:
    return [token.token_id for response in responses for token in response.tokens]


def _text(responses: list[router_pb2.GenerateResponse]) -> str:
    return "".join(response.text for response in responses)


async def test_speculative_output_is_the_incremental_output(suite: ToySuite) -> None:
    expected = toy_output(PROMPT, 60)
    speculative = await _responses(suite, _request())
    incremental = await _responses(suite, _request(speculation=router_pb2.SpeculationOptions(disabled=True)))
    assert _token_ids(speculative) == _token_ids(incremental) == expected
    assert _text(speculative) == _text(incremental) == bytes(expected).decode()
    usage, plain = speculative[-1].usage, incremental[-1].usage
    assert (usage.num_prompt_tokens, usage.num_output_tokens) == (len(PROMPT), 60)
    assert usage.num_verify_steps < 60 == plain.num_verify_steps
    assert sum(usage.acceptance_histogram) == usage.num_verify_steps
    assert usage.num_drafted_nodes > 0 == plain.num_drafted_nodes
    assert speculative[-1].finish_reason == router_pb2.FINISH_REASON_LENGTH
    assert {name for r in speculative for t in r.tokens for name in t.drafted_by} == {"toy-a", "toy-b"}
    assert all(not token.drafted_by for response in incremental for token in response.tokens)


async def test_many_at_once(suite: ToySuite) -> None:
    prompts = [f"prompt number {i}" for i in range(24)]
    all_responses = await asyncio.gather(*(_responses(suite, _request(text=prompt)) for prompt in prompts))
    for prompt, responses in zip(prompts, all_responses, strict=True):
        assert _token_ids(responses) == toy_output(list(prompt.encode()), 60)
    await until(lambda: not suite.llm.sessions and not suite.ssm.sessions)


async def test_forgetful_services_are_sent_the_tokens_again() -> None:
    llm, ssm = ToyLlm(), ToySsm()
    llm.forget_probability = ssm.forget_probability = 0.3
    async with toy_suite(llm, ssm) as suite:
        responses = await _responses(suite, _request(max_tokens=100))
        assert _token_ids(responses) == toy_output(PROMPT, 100)
        assert responses[-1].usage.num_replays > 0


async def test_an_llm_service_that_is_restarted_in_mid_stream() -> None:
    async with toy_suite(ToyLlm(step_s=0.005)) as suite:
        generating = asyncio.create_task(_responses(suite, _request(max_tokens=200)))
        await until(lambda: suite.llm.num_verified >= 10)
        await suite.restart_llm(ToyLlm(step_s=0.005))
        responses = await generating
        assert _token_ids(responses) == toy_output(PROMPT, 200)
        assert responses[-1].usage.num_replays >= 1
        assert suite.llm.num_verified > 0


async def test_an_llm_service_that_drains_in_mid_stream() -> None:
    async with toy_suite(ToyLlm(step_s=0.005)) as suite:
        generating = asyncio.create_task(_responses(suite, _request(max_tokens=200)))
        await until(lambda: suite.llm.num_verified >= 10)
        await suite.llm_server.stop(2.0)
        await suite.restart_llm(ToyLlm(step_s=0.005))
        assert _token_ids(await generating) == toy_output(PROMPT, 200)


async def test_an_ssm_service_that_is_restarted_in_mid_stream_drafts_again() -> None:
    async with toy_suite(ToyLlm(step_s=0.005)) as suite:
        generating = asyncio.create_task(_responses(suite, _request(max_tokens=300)))
        await until(lambda: len(suite.ssm.asked) >= 5)
        await suite.restart_ssm(ToySsm())
        assert _token_ids(await generating) == toy_output(PROMPT, 300)
        assert len(suite.ssm.asked) > 0


async def test_without_llm_the_router_is_not_serving_and_a_request_ends_after_its_wait() -> None:
    async with toy_suite(replica_wait_s=0.3) as suite:
        health = health_pb2_grpc.HealthStub(suite.channel)
        await suite.llm_server.stop(0)
        await until(lambda: not suite.app.llms.is_usable)
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await _responses(suite, _request())
        assert info.value.code() is grpc.StatusCode.UNAVAILABLE
        answer = await health.Check(health_pb2.HealthCheckRequest(service="specgrove.v1.RouterService"))
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await suite.restart_llm(ToyLlm())
        await until(lambda: suite.app.llms.is_usable, 5)
        assert _token_ids(await _responses(suite, _request())) == toy_output(PROMPT, 60)


async def test_cancelling_closes_the_session_on_both_sides() -> None:
    async with toy_suite(ToyLlm(step_s=0.01)) as suite:
        call = suite.stub.Generate(_request(max_tokens=400))
        await call.read()
        await call.read()
        call.cancel()
        await until(lambda: bool(suite.llm.closed and suite.ssm.closed), 1.0)
        assert not suite.llm.sessions
        assert not suite.ssm.sessions
        assert suite.app.admission.num_active == 0


async def test_the_deadline_ends_the_request_and_closes_its_session() -> None:
    async with toy_suite(ToyLlm(step_s=0.02)) as suite:
        started_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as info:
            async for _ in suite.stub.Generate(_request(max_tokens=400), timeout=0.3):
                pass
        assert info.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - started_s < 1
        await until(lambda: not suite.llm.sessions and not suite.ssm.sessions, 1.0)


async def test_a_full_queue_says_when_to_try_again() -> None:
    async with toy_suite(ToyLlm(step_s=0.02), max_num_requests=1, max_num_queued=1) as suite:
        first = asyncio.create_task(_responses(suite, _request(max_tokens=30)))
        await until(lambda: suite.app.admission.num_active == 1)
        second = asyncio.create_task(_responses(suite, _request(max_tokens=5)))
        await until(lambda: suite.app.admission.num_queued == 1)
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await _responses(suite, _request())
        error = error_from_rpc(info.value)
        assert isinstance(error, ResourceExhaustedError)
        assert error.retry_delay_ms >= 100
        assert _token_ids(await first) == toy_output(PROMPT, 30)
        assert _token_ids(await second) == toy_output(PROMPT, 5)


async def test_a_full_llm_service_is_asked_again() -> None:
    llm = ToyLlm()
    llm.num_full = 3
    async with toy_suite(llm) as suite:
        assert _token_ids(await _responses(suite, _request())) == toy_output(PROMPT, 60)
    llm.num_full = 1_000_000
    async with toy_suite(llm, busy_wait_s=0.2) as suite:
        with pytest.raises(grpc.aio.AioRpcError) as info:
            await _responses(suite, _request())
        assert isinstance(error_from_rpc(info.value), ResourceExhaustedError)


async def test_a_service_that_gets_full_while_it_makes_steps_ahead_is_sent_the_tokens_again() -> None:
    llm = ToyLlm()
    llm.full_after = 5
    async with toy_suite(llm) as suite:
        incremental = _request(speculation=router_pb2.SpeculationOptions(disabled=True))
        assert _token_ids(await _responses(suite, incremental)) == toy_output(PROMPT, 60)
    assert llm.full_after is None


def _cycle(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, (1, *tree.parents[1:]), tree.log_probs, tree.sources)


def _child_first(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, (-1, *(99 for _ in tree.parents[1:])), tree.log_probs, tree.sources)


def _out_of_range(tree: TokenTree) -> TokenTree:
    return TokenTree((tree.token_ids[0], *(999 for _ in tree.parents[1:])), tree.parents, tree.log_probs, tree.sources)


def _wrong_root(tree: TokenTree) -> TokenTree:
    return TokenTree((7, *tree.token_ids[1:]), tree.parents, tree.log_probs, tree.sources)


def _lengths_differ(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, tree.parents, tree.log_probs[:-1], tree.sources)


def _nan(tree: TokenTree) -> TokenTree:
    return TokenTree(tree.token_ids, tree.parents, (0.0, *(float("nan") for _ in tree.parents[1:])), tree.sources)


def _too_deep(tree: TokenTree) -> TokenTree:
    token_ids = (tree.token_ids[0], *([1] * 40))
    return TokenTree(token_ids, tuple(range(-1, 40)), (0.0, *([-1.0] * 40)), (0,) * 41)


@pytest.mark.parametrize("spoil", [_cycle, _child_first, _out_of_range, _wrong_root, _lengths_differ, _nan, _too_deep])
async def test_malformed_trees_cost_speed_only(spoil: Any) -> None:
    ssm = ToySsm()
    ssm.spoil = spoil
    async with toy_suite(ssm=ssm) as suite:
        responses = await _responses(suite, _request(max_tokens=20))
        assert _token_ids(responses) == toy_output(PROMPT, 20)
        assert responses[-1].usage.num_drafted_nodes == 0


async def test_a_slow_ssm_costs_speed_only() -> None:
    ssm = ToySsm()
    ssm.delay_s = 0.2
    async with toy_suite(ssm=ssm) as suite:
        assert _token_ids(await _responses(suite, _request(max_tokens=40))) == toy_output(PROMPT, 40)


async def test_an_ssm_for_another_tokenizer_is_not_used() -> None:
    ssm = ToySsm()
    ssm.vocab_sha256 = "0" * 64
    async with toy_suite(ssm=ssm) as suite:
        assert _token_ids(await _responses(suite, _request(max_tokens=20))) == toy_output(PROMPT, 20)
        assert not ssm.asked
        assert (await suite.stub.GetModelInfo(router_pb2.GetModelInfoRequest())).ssms == []


async def test_only_the_ssms_asked_for_draft(suite: ToySuite) -> None:
    responses = await _responses(suite, _request(speculation=router_pb2.SpeculationOptions(ssms=["toy-b"])))
    assert {name for r in responses for t in r.tokens for name in t.drafted_by} == {"toy-b"}


async def test_stop_texts_end_the_output(suite: ToySuite) -> None:
    full = bytes(toy_output(PROMPT, 60)).decode()
    stop = full[23:27]
    responses = await _responses(suite, _request(stop=["never there", stop]))
    assert _text(responses) == full[: full.index(stop)]
    assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP
    assert responses[-1].usage.num_output_tokens == len(_token_ids(responses)) == full.index(stop) + len(stop)
    await until(lambda: not suite.llm.sessions and not suite.ssm.sessions)


async def test_the_end_of_sequence_token_ends_the_output_unless_ignored() -> None:
    def with_eos(prefix: Any, seed: int) -> int:
        return EOS if len(prefix) == len(PROMPT) + 9 else toy_next(prefix, seed)

    async with toy_suite(ToyLlm(with_eos)) as suite:
        responses = await _responses(suite, _request())
        assert len(_token_ids(responses)) == 10
        assert len(_text(responses)) == 9
        assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP
        ignoring = await _responses(suite, _request(ignore_eos=True))
        assert len(_token_ids(ignoring)) == 60


async def test_characters_of_several_tokens_come_whole() -> None:
    text = "Grüße 🌳 und 木"
    content = text.encode()

    def speak(prefix: Any, seed: int) -> int:
        return content[(len(prefix) - len(PROMPT)) % len(content)]

    async with toy_suite(ToyLlm(speak)) as suite:
        responses = await _responses(suite, _request(max_tokens=len(content)))
        assert _text(responses) == text
        cut = await _responses(suite, _request(max_tokens=content.index("🌳".encode()) + 2))
        assert _text(cut) == "Grüße \ufffd"
        assert all("\ufffd" not in response.text for response in cut[:-1])


async def test_log_probs_come_when_asked_for(suite: ToySuite) -> None:
    sampling = token_tree_pb2.SamplingParams(seed=0, num_log_probs=2)
    responses = await _responses(suite, _request(sampling=sampling))
    assert all(len(token.log_probs.top) == 2 for r in responses for token in r.tokens)
    without = await _responses(suite, _request())
    assert not any(token.HasField("log_probs") for r in without for token in r.tokens)


async def test_a_seed_is_drawn_and_reported(suite: ToySuite) -> None:
    first = await _responses(suite, _request(sampling=token_tree_pb2.SamplingParams(temperature=1)))
    seed = first[-1].usage.seed
    again = await _responses(suite, _request(sampling=token_tree_pb2.SamplingParams(temperature=1, seed=seed)))
    assert _token_ids(again) == _token_ids(first) == toy_output(PROMPT, 60, seed)


async def test_chat_tokenize_detokenize_and_model_info(suite: ToySuite) -> None:
    chat = router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="hi")])
    ids = (await suite.stub.Tokenize(router_pb2.TokenizeRequest(chat=chat))).token_ids
    assert bytes(ids) == b"[user]hi[assistant]"
    assert _token_ids(await _responses(suite, _request(chat=chat))) == toy_output(list(ids), 60)
    detokenized = await suite.stub.Detokenize(router_pb2.DetokenizeRequest(token_ids=[104, 105, EOS]))
    assert detokenized.text == "hi"
    info = await suite.stub.GetModelInfo(router_pb2.GetModelInfoRequest())
    assert (info.model, info.vocab_size, list(info.ssms)) == ("toy", VOCAB_SIZE, ["toy-a", "toy-b"])


async def test_bad_input_names_its_field_and_the_router_goes_on(suite: ToySuite) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await _responses(suite, _request(model="other", stop=[""], text=""))
    error = error_from_rpc(info.value)
    assert isinstance(error, InvalidRequestError)
    assert {violation.field for violation in error.violations} == {"model", "stop[0]", "text"}
    generate = suite.channel.unary_stream("/specgrove.v1.RouterService/Generate")
    for content in (b"\x12\x02\xff\xfe", b"\x12" + b"x" * (17 << 20)):
        with pytest.raises(grpc.aio.AioRpcError) as info:
            async for _ in generate(content):
                pass
        assert isinstance(error_from_rpc(info.value), InvalidRequestError)
    assert _token_ids(await _responses(suite, _request(max_tokens=10))) == toy_output(PROMPT, 10)


async def test_draining_finishes_what_is_under_way() -> None:
    async with toy_suite(ToyLlm(step_s=0.01)) as suite:
        generating = asyncio.create_task(_responses(suite, _request(max_tokens=60)))
        await until(lambda: suite.llm.num_verified > 2)
        await suite.app.server.stop(10)
        assert _token_ids(await generating) == toy_output(PROMPT, 60)
