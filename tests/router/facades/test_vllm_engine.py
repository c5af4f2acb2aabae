"""vLLM's engine API: tokens in, tokens out, as gateways ask for them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from router.facades.tokenizer_bundle import zip_pieces
from router.facades.vllm_request import generate_requests
from specgrove.errors import InvalidRequestError
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.key_file import ApiKey, hash_of
from specgrove.serving.status import error_from_rpc
from tests.router.generating import PROMPT
from tests.router.toy_language import VOCAB_SIZE, toy_output
from tests.router.toy_services import toy_log_probs
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until

pytest.importorskip("smg_grpc_proto", reason="smg-grpc-proto is not installed")

from smg_grpc_proto import vllm_engine_pb2 as vllm
from smg_grpc_proto import vllm_engine_pb2_grpc as vllm_grpc
from smg_grpc_proto.generated import common_pb2


@pytest_asyncio.fixture
async def suite() -> AsyncIterator[ToySuite]:
    async with toy_suite(has_vllm_engine_api=True) as running:
        yield running


def stub_of(suite: ToySuite) -> Any:
    return vllm_grpc.VllmEngineStub(suite.channel)


def asked(*, stream: bool = False, request_id: str = "", **sampling: Any) -> vllm.GenerateRequest:
    sampling = {"max_tokens": 30, "seed": 0, "temperature": 0.0, **sampling}
    return vllm.GenerateRequest(
        request_id=request_id,
        tokenized=vllm.TokenizedInput(input_ids=PROMPT),
        sampling_params=vllm.SamplingParams(**sampling),
        stream=stream,
    )


async def answers_to(suite: ToySuite, request: vllm.GenerateRequest) -> list[vllm.GenerateResponse]:
    async with asyncio.timeout(LIMIT_S):
        return [answer async for answer in stub_of(suite).Generate(request)]


async def test_an_output_comes_whole(suite: ToySuite) -> None:
    (answer,) = await answers_to(suite, asked())
    complete = answer.complete
    assert list(complete.output_ids) == toy_output(PROMPT, 30)
    assert (complete.finish_reason, complete.prompt_tokens, complete.completion_tokens) == ("length", len(PROMPT), 30)
    assert complete.spec_draft_tokens >= complete.spec_accepted_tokens > 0


async def test_or_in_pieces(suite: ToySuite) -> None:
    answers = await answers_to(suite, asked(stream=True))
    chunks = [answer.chunk for answer in answers if answer.HasField("chunk")]
    assert len(chunks) > 1
    assert [token_id for chunk in chunks for token_id in chunk.token_ids] == toy_output(PROMPT, 30)
    assert chunks[-1].completion_tokens == 30
    assert {chunk.prompt_tokens for chunk in chunks} == {len(PROMPT)}
    assert list(answers[-1].complete.output_ids) == toy_output(PROMPT, 30)


async def test_several_outputs_have_seeds_of_their_own(suite: ToySuite) -> None:
    answers = await answers_to(suite, asked(n=3, temperature=1.0))
    outputs = {answer.complete.index: list(answer.complete.output_ids) for answer in answers}
    assert outputs == {index: toy_output(PROMPT, 30, seed=index) for index in range(3)}


async def test_what_ended_an_output_is_told(suite: ToySuite) -> None:
    stop = bytes(toy_output(PROMPT, 30)[10:14]).decode()
    (answer,) = await answers_to(suite, asked(stop=[stop]))
    assert (answer.complete.finish_reason, answer.complete.matched_stop_str) == ("stop", stop)
    assert list(answer.complete.output_ids) == toy_output(PROMPT, 14)
    (answer,) = await answers_to(suite, asked(stop_token_ids=[toy_output(PROMPT, 30)[5]]))
    assert answer.complete.matched_token_id == toy_output(PROMPT, 30)[5]


@pytest.mark.parametrize(
    "constraint",
    [
        {"regex": "[0-9]{4}"},
        {"choice": vllm.ChoiceConstraint(choices=["1234"])},
        {"json_schema": '{"const": 1234}'},
        {"grammar": 'start: "1234"'},
    ],
)
async def test_constraints_become_structured_outputs(constraint: dict[str, Any]) -> None:
    (request,) = generate_requests(asked(**constraint))
    (kind,) = constraint
    structure = request.sampling.structured_output
    assert structure.WhichOneof("kind") == kind
    assert (
        list(structure.choice.texts) == ["1234"] if kind == "choice" else getattr(structure, kind) == constraint[kind]
    )


async def test_log_probabilities_come_with_their_tokens(suite: ToySuite) -> None:
    (answer,) = await answers_to(suite, asked(logprobs=2))
    log_probs = answer.complete.output_logprobs
    assert list(log_probs.token_ids) == toy_output(PROMPT, 30)
    assert len(log_probs.token_logprobs) == len(log_probs.top_logprobs) == 30
    assert all(len(top.token_ids) == len(top.values) == 2 for top in log_probs.top_logprobs)


async def test_log_probabilities_of_the_prompt_come_with_the_first_tokens(suite: ToySuite) -> None:
    first, *others, last = await answers_to(suite, asked(prompt_logprobs=2, stream=True))
    assert not any(answer.chunk.HasField("input_logprobs") for answer in others)
    for log_probs in (first.chunk.input_logprobs, last.complete.input_logprobs):
        assert list(log_probs.token_ids) == PROMPT
        assert not log_probs.token_logprobs[0].HasField("value")
        assert not log_probs.top_logprobs[0].values
        for place in range(1, len(PROMPT)):
            expected = toy_log_probs(PROMPT[: place + 1], 2)
            top = log_probs.top_logprobs[place]
            assert log_probs.token_logprobs[place].value == expected.log_prob
            assert tuple(zip(top.token_ids, top.values, strict=True)) == expected.top


async def test_aborted_requests_end() -> None:
    async with toy_suite(has_vllm_engine_api=True) as suite:
        suite.llm.gate.clear()
        call = stub_of(suite).Generate(asked(request_id="a"))
        await until(lambda: bool(suite.llm.sessions))
        await stub_of(suite).Abort(vllm.AbortRequest(request_ids=["a", "unknown"]))
        async with asyncio.timeout(LIMIT_S):
            answers = [answer async for answer in call]
        assert [answer.complete.finish_reason for answer in answers] == ["abort"]
        suite.llm.gate.set()
        await until(lambda: not suite.llm.sessions and not suite.app.admission.num_active)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (vllm.GenerateRequest(), "input: is missing: give tokenized or text"),
        (asked(top_p=3.0), "sampling_params.top_p: must be in [0, 1], got 3"),
        (asked(logprobs=-1), "sampling_params.logprobs: must be at least 0"),
        (asked(structural_tag="x"), "sampling_params.structural_tag: is not supported"),
        (asked(regex="("), "sampling_params.regex"),
        (asked(prompt_logprobs=-1), "sampling_params.prompt_logprobs: must be at least 0"),
        (asked(prompt_logprobs=21), "sampling_params.prompt_logprobs: must be at most 20"),
        (asked(n=1000), "sampling_params.n: must be at most 128, got 1000"),
        (vllm.GenerateRequest(text="x", data_parallel_rank=1), "data_parallel_rank: must be 0"),
        (vllm.GenerateRequest(text="x", mm_inputs=vllm.MultimodalInputs()), "mm_inputs: the model reads texts only"),
        (vllm.GenerateRequest(tokenized=vllm.TokenizedInput(input_ids=[VOCAB_SIZE])), "tokenized.input_ids: token id"),
        (asked(stop=[""]), "sampling_params.stop[0]: must have 1 to 256 characters"),
    ],
)
async def test_what_is_wrong_is_told(suite: ToySuite, request_: vllm.GenerateRequest, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await answers_to(suite, request_)
    assert isinstance(told := error_from_rpc(error.value), InvalidRequestError)
    assert str(told).startswith(message)


async def test_more_outputs_than_a_key_may_ever_have_are_told_so() -> None:
    keys = ApiKeys([ApiKey("alice", hash_of("a-key"), max_num_requests=2)])
    async with toy_suite(has_vllm_engine_api=True, api_keys=keys) as suite:
        metadata = (("authorization", "Bearer a-key"),)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub_of(suite).Generate(asked(n=3), metadata=metadata).read()
        assert str(error_from_rpc(error.value)).startswith("sampling_params.n: asks for 3 outputs")
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await stub_of(suite).Generate(asked(n=2), metadata=metadata).read()


async def test_gateways_learn_what_they_route_to(suite: ToySuite) -> None:
    stub = stub_of(suite)
    await until(lambda: suite.app.server.health.is_serving)
    assert (await stub.HealthCheck(vllm.HealthCheckRequest())).healthy
    info = await stub.GetModelInfo(vllm.GetModelInfoRequest())
    assert (info.served_model_name, info.vocab_size, info.is_generation) == ("toy", VOCAB_SIZE, True)
    assert (await stub.GetServerInfo(vllm.GetServerInfoRequest())).data_parallel_size == 1
    (load,) = (await stub.GetLoads(vllm.GetLoadsRequest())).loads
    assert (load.num_running_reqs, load.max_running_requests) == (0, 64)
    pieces = [piece async for piece in stub.GetTokenizer(common_pb2.GetTokenizerRequest())]
    content = b"".join(piece.data for piece in pieces)
    assert [piece.sha256 for piece in pieces] == [""] * (len(pieces) - 1) + [hashlib.sha256(content).hexdigest()]
    assert "tokenizer.json" in zipfile.ZipFile(io.BytesIO(content)).namelist()


def test_the_bundle_is_the_same_whenever_it_is_made() -> None:
    files = {"b.json": b"b" * 200_000, "tokenizer.json": bytes(range(256)) * 1000}
    assert list(zip_pieces(files)) == list(zip_pieces(dict(reversed(files.items()))))
    assert [bool(digest) for _, digest in zip_pieces(files)][-1]


async def test_methods_that_are_left_out_say_so(suite: ToySuite, caplog: pytest.LogCaptureFixture) -> None:
    stub = stub_of(suite)
    for call in (stub.Embed(vllm.EmbedRequest()), stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest()).read()):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_it_is_served_only_where_it_is_asked_for() -> None:
    async with toy_suite() as suite:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub_of(suite).HealthCheck(vllm.HealthCheckRequest())
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
