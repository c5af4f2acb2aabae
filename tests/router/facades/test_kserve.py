"""The Open Inference Protocol: its outputs are the router's own, in tensors of either form; what is wrong is told by its names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from specgrove.errors import InvalidRequestError
from specgrove.inference import open_inference_pb2 as inference
from specgrove.inference import open_inference_pb2_grpc as inference_grpc
from specgrove.serving.status import error_from_rpc
from tests.router.generating import PROMPT
from tests.router.toy_language import toy_output
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until

TEXT = bytes(PROMPT).decode()


def stub_of(suite: ToySuite) -> Any:
    return inference_grpc.GRPCInferenceServiceStub(suite.channel)


def asked(text: str | None = TEXT, *, is_raw: bool = False, **fields: Any) -> inference.ModelInferRequest:
    """``fields`` named after inputs become tensors, others are the message's own."""
    request = inference.ModelInferRequest(
        model_name="toy", **{k: v for k, v in fields.items() if k in ("id", "outputs")}
    )
    values = {"text_input": text, **{k: v for k, v in fields.items() if k not in ("id", "outputs")}}
    for name, value in values.items():
        if value is None:
            continue
        datatype = "BOOL" if isinstance(value, bool) else "BYTES"
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[1])
        content = bytes([value]) if isinstance(value, bool) else str(value).encode()
        if is_raw:
            prefix = b"" if isinstance(value, bool) else len(content).to_bytes(4, "little")
            request.raw_input_contents.append(prefix + content)
        elif isinstance(value, bool):
            tensor.contents.bool_contents.append(value)
        else:
            tensor.contents.bytes_contents.append(content)
    return request


def values_of(response: inference.ModelInferResponse) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for index, tensor in enumerate(response.outputs):
        assert list(tensor.shape) == [1]
        if response.raw_output_contents:
            raw = response.raw_output_contents[index]
            is_text = tensor.datatype == "BYTES"
            assert not is_text or int.from_bytes(raw[:4], "little") == len(raw) - 4
            values[tensor.name] = raw[4:].decode() if is_text else int.from_bytes(raw, "little")
        else:
            contents = tensor.contents
            values[tensor.name] = (
                contents.bytes_contents[0].decode() if contents.bytes_contents else contents.uint_contents[0]
            )
    return values


def params(**values: Any) -> str:
    return json.dumps({"max_tokens": 30, "seed": 0, **values})


@pytest.mark.parametrize("is_raw", [False, True])
async def test_an_output_is_the_routers(suite: ToySuite, is_raw: bool) -> None:
    response = await stub_of(suite).ModelInfer(asked(is_raw=is_raw, id="a", sampling_parameters=params()))
    assert (response.model_name, response.id, response.parameters["triton_final_response"].bool_param) == (
        "toy",
        "a",
        True,
    )
    assert bool(response.raw_output_contents) is is_raw
    assert values_of(response) == {
        "text_output": bytes(toy_output(PROMPT, 30)).decode(),
        "finish_reason": "length",
        "num_input_tokens": len(PROMPT),
        "num_output_tokens": 30,
    }


async def test_parameters_may_come_one_by_one(suite: ToySuite) -> None:
    request = asked(exclude_input_in_output=False)
    request.parameters["max_tokens"].int64_param = 7
    request.parameters["seed"].uint64_param = 0
    response = await stub_of(suite).ModelInfer(request)
    assert values_of(response)["text_output"] == TEXT + bytes(toy_output(PROMPT, 7)).decode()


async def test_only_the_outputs_asked_for_come(suite: ToySuite) -> None:
    outputs = [inference.ModelInferRequest.InferRequestedOutputTensor(name="num_output_tokens")]
    response = await stub_of(suite).ModelInfer(asked(sampling_parameters=params(), outputs=outputs))
    assert values_of(response) == {"num_output_tokens": 30}


async def test_a_stream_serves_several_requests_and_tells_them_apart(suite: ToySuite) -> None:
    other = "Another one"
    requests = [
        asked(id="pieces", stream=True, sampling_parameters=params()),
        asked(other, id="whole", sampling_parameters=params()),
        asked(id="wrong", sampling_parameters=params(top_p=7)),
    ]
    texts = {"pieces": "", "whole": ""}
    counts, errors = {"pieces": 0, "whole": 0}, {}
    async with asyncio.timeout(LIMIT_S):
        answers = [answer async for answer in stub_of(suite).ModelStreamInfer(iter(requests))]
    for answer in answers:
        response = answer.infer_response
        if answer.error_message:
            errors[response.id] = answer.error_message
            continue
        texts[response.id] += values_of(response)["text_output"]
        counts[response.id] += 1
    assert texts == {
        "pieces": bytes(toy_output(PROMPT, 30)).decode(),
        "whole": bytes(toy_output(list(other.encode()), 30)).decode(),
    }
    assert counts["pieces"] > 1 == counts["whole"]
    assert errors == {"wrong": "sampling_parameters.top_p: must be in [0, 1], got 7"}


async def test_a_stream_that_is_cancelled_ends_its_requests() -> None:
    async with toy_suite() as suite:
        suite.llm.gate.clear()
        call = stub_of(suite).ModelStreamInfer()
        await call.write(asked(stream=True, sampling_parameters=params()))
        await until(lambda: bool(suite.llm.sessions))
        call.cancel()
        suite.llm.gate.set()
        await until(lambda: not suite.llm.sessions and not suite.app.admission.num_active)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (asked(None), "inputs[text_input]: is missing; it is the prompt"),
        (
            asked(sampling_parameters=params(temperature=-1)),
            "sampling_parameters.temperature: must be in [0, 100], got -1",
        ),
        (asked(sampling_parameters="{"), "inputs[sampling_parameters]: is no JSON"),
        (asked(sampling_parameters="[]"), "inputs[sampling_parameters]: must be an object"),
        (asked(sampling_parameters='{"topp": 1}'), "sampling_parameters.topp: is not known; there are "),
        (asked(sampling_parameters='{"stop": 5}'), "sampling_parameters.stop: must be a text or several, got 5"),
        (asked(sampling_parameters='{"json_schema": "{"}'), "sampling_parameters.json_schema: is no JSON"),
        (asked(sampling_parameters='{"stop": [""]}'), "sampling_parameters.stop[0]: must have 1 to 256 characters"),
        (asked(sampling_parameters='{"\\ud800": 1}'), "sampling_parameters.\\ud800: is not known"),
        (
            asked(sampling_parameters='{"json_schema": {"\\ud800": NaN}}'),
            "sampling_parameters.json_schema.\\ud800: must be a finite number",
        ),
        (asked(stream=True), "inputs[stream]: needs ModelStreamInfer"),
        (asked(prompt="x"), "inputs[prompt]: is not known; there are text_input, "),
        (asked(outputs=[{"name": "logits"}]), "outputs[logits]: is not known"),
    ],
)
async def test_what_is_wrong_is_told(suite: ToySuite, request_: inference.ModelInferRequest, message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub_of(suite).ModelInfer(request_)
    assert isinstance(told := error_from_rpc(error.value), InvalidRequestError)
    assert str(told).startswith(message)


def _without_shape(request: inference.ModelInferRequest) -> None:
    request.inputs[0].shape[:] = [2]


def _of_another_type(request: inference.ModelInferRequest) -> None:
    request.inputs[0].datatype = "FP32"


def _without_contents(request: inference.ModelInferRequest) -> None:
    request.inputs[0].ClearField("contents")


def _with_broken_raw(request: inference.ModelInferRequest) -> None:
    request.raw_input_contents.append(b"\x09\0\0\0short")


def _with_bytes_that_are_no_text(request: inference.ModelInferRequest) -> None:
    request.inputs[0].contents.bytes_contents[0] = b"\xff"


def _of_another_model(request: inference.ModelInferRequest) -> None:
    request.model_name = "other"


def _of_another_version(request: inference.ModelInferRequest) -> None:
    request.model_version = "2"


def _twice(request: inference.ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_shape, "inputs[text_input]: must have the shape [1] or [1, 1], got [2]"),
        (_of_another_type, "inputs[text_input]: must be BYTES, got FP32"),
        (_without_contents, "inputs[text_input]: must have one element, got 0"),
        (_with_broken_raw, "inputs[text_input]: must be one text with its length before it"),
        (_with_bytes_that_are_no_text, "inputs[text_input]: is not valid UTF-8"),
        (_of_another_model, "model_name: 'other' is not served here; 'toy' is"),
        (_of_another_version, "model_version: '2' is not served; there is '1'"),
        (_twice, "inputs[text_input]: is there twice"),
    ],
)
async def test_tensors_are_checked(suite: ToySuite, spoil: Any, message: str) -> None:
    request = asked()
    spoil(request)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub_of(suite).ModelInfer(request)
    assert str(error_from_rpc(error.value)).startswith(message)


async def test_a_message_that_is_none_ends_its_stream(suite: ToySuite) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"\xff\xff"

    call = suite.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(requests())
    with pytest.raises(grpc.aio.AioRpcError) as error:
        async with asyncio.timeout(LIMIT_S):
            await call.read()
    assert isinstance(error_from_rpc(error.value), InvalidRequestError)


async def test_the_model_is_described(suite: ToySuite) -> None:
    stub = stub_of(suite)
    assert (await stub.ServerLive(inference.ServerLiveRequest())).live
    await until(lambda: suite.app.server.health.is_serving)
    assert (await stub.ServerReady(inference.ServerReadyRequest())).ready
    assert (await stub.ModelReady(inference.ModelReadyRequest(name="toy"))).ready
    assert not (await stub.ModelReady(inference.ModelReadyRequest(name="other"))).ready
    assert (await stub.ServerMetadata(inference.ServerMetadataRequest())).name == "specgrove"
    metadata = await stub.ModelMetadata(inference.ModelMetadataRequest(name="toy", version="1"))
    assert [tensor.name for tensor in metadata.inputs][:2] == ["text_input", "sampling_parameters"]
    assert {tensor.name: tensor.datatype for tensor in metadata.outputs}["text_output"] == "BYTES"
