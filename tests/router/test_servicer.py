"""The public API end to end over real sockets, with a toy model whose outputs are known."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from specgrove.errors import InvalidRequestError
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2, token_tree_pb2
from specgrove.wire import works
from tests.router.generating import PROMPT, request_of, responses_to, text_of, token_ids_of
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_next, toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until


async def test_speculative_output_is_the_incremental_output(suite: ToySuite) -> None:
    expected = toy_output(PROMPT, 200)
    speculative = await responses_to(suite, request_of(max_tokens=200))
    incremental = await responses_to(
        suite, request_of(max_tokens=200, speculation=router_pb2.SpeculationOptions(disabled=True))
    )
    assert token_ids_of(speculative) == token_ids_of(incremental) == expected
    assert text_of(speculative) == text_of(incremental) == bytes(expected).decode()
    usage, plain = speculative[-1].usage, incremental[-1].usage
    assert (usage.num_prompt_tokens, usage.num_output_tokens) == (len(PROMPT), 200)
    assert usage.num_verify_steps < 200 == plain.num_verify_steps
    assert sum(usage.acceptance_histogram) == usage.num_verify_steps
    assert usage.num_drafted_nodes > 0 == plain.num_drafted_nodes
    assert speculative[-1].finish_reason == router_pb2.FINISH_REASON_LENGTH
    assert {name for r in speculative for t in r.tokens for name in t.drafted_by} == {"toy-a", "toy-b"}
    assert all(not token.drafted_by for response in incremental for token in response.tokens)


async def test_many_at_once(suite: ToySuite) -> None:
    prompts = [f"prompt number {i}" for i in range(24)]
    all_responses = await asyncio.gather(*(responses_to(suite, request_of(text=prompt)) for prompt in prompts))
    for prompt, responses in zip(prompts, all_responses, strict=True):
        assert token_ids_of(responses) == toy_output(list(prompt.encode()), 60)
    await until(lambda: not suite.llm.sessions and not suite.ssm.sessions)


async def test_only_the_ssms_asked_for_draft(suite: ToySuite) -> None:
    options = router_pb2.SpeculationOptions(ssms=["toy-b"])
    responses = await responses_to(suite, request_of(max_tokens=200, speculation=options))
    assert {name for r in responses for t in r.tokens for name in t.drafted_by} == {"toy-b"}


async def test_stop_texts_end_the_output(suite: ToySuite) -> None:
    full = bytes(toy_output(PROMPT, 60)).decode()
    stop = full[23:27]
    responses = await responses_to(suite, request_of(stop=["never there", stop]))
    assert text_of(responses) == full[: full.index(stop)]
    assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP
    assert responses[-1].stop_reason == router_pb2.StopReason(text=stop)
    assert not any(response.HasField("stop_reason") for response in responses[:-1])
    assert responses[-1].usage.num_output_tokens == len(token_ids_of(responses)) == full.index(stop) + len(stop)
    await until(lambda: not suite.llm.sessions and not suite.ssm.sessions)


@pytest.mark.parametrize("at", range(10, 16))
async def test_a_stop_text_ends_the_output_amid_several_steps(suite: ToySuite, at: int) -> None:
    suite.llm.num_joined = 4
    expected = bytes(toy_output(PROMPT, 60)).decode()
    stop = expected[at : at + 3]
    request = request_of(stop=[stop], speculation=router_pb2.SpeculationOptions(disabled=True))
    responses = await responses_to(suite, request)
    assert text_of(responses) == expected[: expected.index(stop)]
    usage = responses[-1].usage
    assert usage.num_verify_steps == usage.num_output_tokens == len(token_ids_of(responses)) == expected.index(stop) + 3
    assert max(len(response.tokens) for response in responses) == 4


async def test_the_end_of_sequence_token_ends_the_output_unless_ignored() -> None:
    def with_eos(prefix: Any, seed: int) -> int:
        return EOS if len(prefix) == len(PROMPT) + 9 else toy_next(prefix, seed)

    async with toy_suite(ToyLlm(with_eos)) as suite:
        responses = await responses_to(suite, request_of())
        assert len(token_ids_of(responses)) == 10
        assert len(text_of(responses)) == 9
        assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP
        assert responses[-1].stop_reason == router_pb2.StopReason(token_id=EOS)
        ignoring = await responses_to(suite, request_of(ignore_eos=True))
        assert len(token_ids_of(ignoring)) == 60
        assert not ignoring[-1].HasField("stop_reason")


@pytest.mark.parametrize("is_disabled", [True, False])
async def test_a_stop_text_that_is_a_special_token_ends_the_output_there(is_disabled: bool) -> None:
    """Special tokens have no text in which it could be found."""

    def with_eos(prefix: Any, seed: int) -> int:
        return EOS if len(prefix) == len(PROMPT) + 9 else toy_next(prefix, seed)

    speculation = router_pb2.SpeculationOptions(disabled=is_disabled)
    async with toy_suite(ToyLlm(with_eos)) as suite:
        expected = toy_output(PROMPT, 10, next_token=with_eos)
        for stop in (["<eos>"], ["never there", "<eos>", "eos"]):
            request = request_of(ignore_eos=True, stop=stop, speculation=speculation)
            responses = await responses_to(suite, request)
            assert token_ids_of(responses) == expected
            assert text_of(responses) == bytes(expected[:-1]).decode()
            assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP
            assert responses[-1].stop_reason == router_pb2.StopReason(text="<eos>")


async def test_the_stop_token_that_ended_the_output_is_told(suite: ToySuite) -> None:
    stop = toy_output(PROMPT, 60)[20]
    sampling = token_tree_pb2.SamplingParams(seed=0, stop_token_ids=[EOS, stop])
    responses = await responses_to(suite, request_of(sampling=sampling))
    assert responses[-1].stop_reason.token_id == token_ids_of(responses)[-1] == stop


async def test_what_ends_an_output_is_no_part_of_its_text() -> None:
    """Also where the token has a text like any other. Its id is listed."""
    expected = toy_output(PROMPT, 60)
    stop = expected[20]
    sampling = token_tree_pb2.SamplingParams(seed=0, stop_token_ids=[stop])
    async with toy_suite() as suite:
        responses = await responses_to(suite, request_of(sampling=sampling))
    num_tokens = expected.index(stop) + 1
    assert token_ids_of(responses) == expected[:num_tokens]
    assert text_of(responses) == bytes(expected[: num_tokens - 1]).decode()
    assert "".join(token.text for r in responses for token in r.tokens) == text_of(responses)
    assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP


async def test_stop_texts_count_from_min_tokens_on() -> None:
    text = bytes(toy_output(PROMPT, 60)).decode()
    stop = text[3:5]
    sampling = token_tree_pb2.SamplingParams(seed=0, min_tokens=30)
    for disabled in (False, True):
        speculation = router_pb2.SpeculationOptions(disabled=disabled)
        async with toy_suite() as suite:
            request = request_of(stop=[stop, text[40:43]], sampling=sampling, speculation=speculation)
            responses = await responses_to(suite, request)
        assert text_of(responses) == text[:40]
        assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP


async def test_a_stop_text_that_only_the_end_completes_is_why_the_output_ended() -> None:
    content = "木".encode() * 20

    def speak(prefix: Any, seed: int) -> int:
        return content[(len(prefix) - len(PROMPT)) % len(content)]

    async with toy_suite(ToyLlm(speak)) as suite:
        responses = await responses_to(suite, request_of(max_tokens=8, stop=["\ufffd"]))
        assert text_of(responses) == "木木"
        assert responses[-1].finish_reason == router_pb2.FINISH_REASON_STOP
        assert len(token_ids_of(responses)) == 8


async def test_characters_of_several_tokens_come_whole() -> None:
    text = "Grüße 🌳 und 木"
    content = text.encode()

    def speak(prefix: Any, seed: int) -> int:
        return content[(len(prefix) - len(PROMPT)) % len(content)]

    async with toy_suite(ToyLlm(speak)) as suite:
        responses = await responses_to(suite, request_of(max_tokens=len(content)))
        assert text_of(responses) == text
        cut = await responses_to(suite, request_of(max_tokens=content.index("🌳".encode()) + 2))
        assert text_of(cut) == "Grüße \ufffd"
        assert all("\ufffd" not in response.text for response in cut[:-1])


async def test_an_output_is_what_it_adds_to_the_prompts_text() -> None:
    """Here the prompt ends amid a character, which counts as the prompt's."""
    prompt, following = "a木".encode()[:-1], "a木".encode()[-1:] + b"bc"

    def speak(prefix: Any, seed: int) -> int:
        return following[(len(prefix) - len(prompt)) % len(following)]

    async with toy_suite(ToyLlm(speak)) as suite:
        token_ids = router_pb2.TokenIds(token_ids=prompt)
        responses = await responses_to(suite, request_of(token_ids=token_ids, max_tokens=3))
        assert bytes(token_ids_of(responses)) == following
        assert text_of(responses) == "bc"


async def test_log_probs_come_when_asked_for(suite: ToySuite) -> None:
    sampling = token_tree_pb2.SamplingParams(seed=0, num_log_probs=2)
    responses = await responses_to(suite, request_of(sampling=sampling))
    assert all(len(token.log_probs.top) == 2 for r in responses for token in r.tokens)
    without = await responses_to(suite, request_of())
    assert not any(token.HasField("log_probs") for r in without for token in r.tokens)


async def test_a_seed_is_drawn_and_reported(suite: ToySuite) -> None:
    first = await responses_to(suite, request_of(sampling=token_tree_pb2.SamplingParams(temperature=1)))
    seed = first[-1].usage.seed
    again = await responses_to(suite, request_of(sampling=token_tree_pb2.SamplingParams(temperature=1, seed=seed)))
    assert token_ids_of(again) == token_ids_of(first) == toy_output(PROMPT, 60, seed)


async def test_chat_tokenize_detokenize_and_model_info(suite: ToySuite) -> None:
    chat = router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="hi")])
    ids = (await suite.stub.Tokenize(router_pb2.TokenizeRequest(chat=chat))).token_ids
    assert bytes(ids) == b"[user]hi[assistant]"
    assert token_ids_of(await responses_to(suite, request_of(chat=chat))) == toy_output(list(ids), 60)
    detokenized = await suite.stub.Detokenize(router_pb2.DetokenizeRequest(token_ids=[104, 105, EOS]))
    assert detokenized.text == "hi"
    info = await suite.stub.GetModelInfo(router_pb2.GetModelInfoRequest())
    assert (info.model, info.vocab_size, list(info.ssms)) == ("toy", VOCAB_SIZE, ["toy-a", "toy-b"])
    assert info.protocol_version == works.PROTOCOL_VERSION
    assert {"chat", "api_keys"} <= set(info.features)


async def test_bad_input_names_its_field_and_the_router_goes_on(suite: ToySuite) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await responses_to(suite, request_of(model="other", stop=[""], text=""))
    error = error_from_rpc(info.value)
    assert isinstance(error, InvalidRequestError)
    assert {violation.field for violation in error.violations} == {"model", "stop[0]", "text"}
    generate = suite.channel.unary_stream("/specgrove.v1.RouterService/Generate")
    for content in (b"\x12\x02\xff\xfe", b"\x12" + b"x" * (17 << 20)):
        with pytest.raises(grpc.aio.AioRpcError) as info:
            async for _ in generate(content):
                pass
        assert isinstance(error_from_rpc(info.value), InvalidRequestError)
    assert token_ids_of(await responses_to(suite, request_of(max_tokens=10))) == toy_output(PROMPT, 10)


async def test_draining_finishes_what_is_under_way() -> None:
    async with toy_suite(ToyLlm(step_s=0.01)) as suite:
        generating = asyncio.create_task(responses_to(suite, request_of(max_tokens=60)))
        await until(lambda: suite.llm.num_verified > 2)
        await suite.app.server.stop(LIMIT_S)
        assert token_ids_of(await generating) == toy_output(PROMPT, 60)


@pytest.mark.parametrize("is_disabled", [False, True])
async def test_the_prompts_progress_comes_before_the_first_token_when_asked_for(
    suite: ToySuite, is_disabled: bool
) -> None:
    suite.llm.chunk_len = 1
    options = router_pb2.SpeculationOptions(disabled=is_disabled)
    asked = await responses_to(suite, request_of(prompt_progress=True, speculation=options))
    expected_read = [*range(1, len(PROMPT)), *[0] * (len(asked) - len(PROMPT) + 1)]
    assert [response.num_prompt_tokens_read for response in asked] == expected_read
    assert not any(response.tokens or response.text for response in asked[: len(PROMPT) - 1])
    not_asked = await responses_to(suite, request_of(speculation=options))
    assert not any(response.num_prompt_tokens_read for response in not_asked)
    assert token_ids_of(asked) == token_ids_of(not_asked)
    assert asked[-1].usage.num_verify_steps > 0


async def test_a_stream_that_is_closed_without_a_request_is_refused() -> None:
    async with toy_suite() as suite:
        call = suite.channel.stream_stream("/specgrove.v1.RouterService/Generate")(iter(()), timeout=LIMIT_S)
        with pytest.raises(grpc.aio.AioRpcError, match="request: is missing") as info:
            await call.read()
        assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT
