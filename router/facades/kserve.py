"""The Open Inference Protocol (KServe's version 2) over the router's servicer: a text in, a text out.

The tensors are those of Triton's vLLM backend, so that its clients work: ``text_input``, ``sampling_parameters`` (a JSON object of
the client's parameters, as ``specgrove.client.wire`` has them), ``stream``, ``exclude_input_in_output``; ``text_output`` comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from router.facades.field_names import renaming
from router.facades.kserve_tensors import INPUT_TYPES, OUTPUT_TYPES, Value, add_outputs, asked_outputs, input_values
from router.output_messages import FINISH_REASONS
from router.request_ids import CallIds, begin_call
from specgrove.client import wire
from specgrove.client.wire import GenerateParams
from specgrove.errors import InvalidRequestError, SpecGroveError, UnavailableError
from specgrove.inference import open_inference_pb2 as inference
from specgrove.inference import open_inference_pb2_grpc as inference_grpc
from specgrove.v1 import router_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.servicer import RouterServicer

SERVICE_NAME: str = inference.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name

_VERSION = "1"
_PLATFORM = "specgrove"
_FINAL = "triton_final_response"
# What Triton's clients add to every request of a stream; the last response is marked anyway.
_IGNORED = frozenset({"triton_enable_empty_final_response", "binary_data_output"})
# Requests of one stream that are served at once. More wait unread.
_MAX_NUM_AT_ONCE = 64
_NUM_WAITING = 16
# They make no sense for a text, or have a way of their own here.
_NOT_ASKED = frozenset(
    {"model", "num_log_probs", "num_prompt_log_probs", "prompt_only", "prompt_progress", "timeout_s", "speculation"}
)
_PARAMETERS = frozenset(GenerateParams.__optional_keys__ - wire.ChatParams.__optional_keys__ - _NOT_ASKED)
_FIELD_NAMES = {
    "text": "inputs[text_input]",
    "sampling": "sampling_parameters",
    **{name: f"sampling_parameters.{name}" for name in _PARAMETERS},
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, read."""

    request: router_pb2.GenerateRequest
    echo: str
    outputs: frozenset[str]
    is_streaming: bool
    is_raw: bool


@dataclass(slots=True)
class _Output:
    """What a whole output is made of."""

    texts: list[str] = field(default_factory=list)
    last: router_pb2.GenerateResponse | None = None


class _End:
    """Marks the end of a stream in its queue."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class KServeServicer(inference_grpc.GRPCInferenceServiceServicer):
    """One per router."""

    def __init__(self, servicer: RouterServicer, is_serving: Callable[[], bool]) -> None:
        self._servicer = servicer
        self._is_serving = is_serving

    async def ServerLive(  # noqa: N802
        self, request: inference.ServerLiveRequest, context: Any
    ) -> inference.ServerLiveResponse:
        """It answers."""
        return inference.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802
        self, request: inference.ServerReadyRequest, context: Any
    ) -> inference.ServerReadyResponse:
        """As the health service says."""
        return inference.ServerReadyResponse(ready=self._is_serving())

    async def ModelReady(  # noqa: N802
        self, request: inference.ModelReadyRequest, context: Any
    ) -> inference.ModelReadyResponse:
        """Whether the model is served now."""
        try:
            info = await self._info(context)
        except UnavailableError:
            return inference.ModelReadyResponse(ready=False)
        is_known = request.name == info.model and request.version in ("", _VERSION)
        return inference.ModelReadyResponse(ready=is_known and self._is_serving())

    async def ServerMetadata(  # noqa: N802
        self, request: inference.ServerMetadataRequest, context: Any
    ) -> inference.ServerMetadataResponse:
        """Name and version."""
        return inference.ServerMetadataResponse(name=_PLATFORM, version=self._servicer.version)

    async def ModelMetadata(  # noqa: N802
        self, request: inference.ModelMetadataRequest, context: Any
    ) -> inference.ModelMetadataResponse:
        """The tensors."""
        info = await self._info(context)
        _check_model(info.model, request.name, request.version, "name", "version")
        response = inference.ModelMetadataResponse(name=info.model, versions=[_VERSION], platform=_PLATFORM)
        for tensors, types in ((response.inputs, INPUT_TYPES), (response.outputs, OUTPUT_TYPES)):
            for name, datatype in types.items():
                tensors.add(name=name, datatype=datatype, shape=[1])
        return response

    async def ModelInfer(  # noqa: N802
        self, request: inference.ModelInferRequest, context: Any
    ) -> inference.ModelInferResponse:
        """One output, whole."""
        asked = await self._asked(request, context)
        if asked.is_streaming:
            raise InvalidRequestError.of("inputs[stream]", "needs ModelStreamInfer: ModelInfer has one response")
        async with contextlib.aclosing(self._outputs(request, asked, context)) as responses:
            return [response async for response in responses][-1]

    async def ModelStreamInfer(  # noqa: N802
        self, requests: AsyncIterator[inference.ModelInferRequest], context: Any
    ) -> AsyncGenerator[inference.ModelStreamInferResponse, None]:
        """The outputs of all requests of the stream, as they come. What is wrong with one ends that one."""
        waiting: asyncio.Queue[inference.ModelStreamInferResponse | _End] = asyncio.Queue(_NUM_WAITING)
        reading = asyncio.create_task(self._serve_all(requests, context, waiting))
        try:
            while not isinstance(answer := await waiting.get(), _End):
                yield answer
            if answer.error is not None:
                raise answer.error
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _serve_all(
        self,
        requests: AsyncIterator[inference.ModelInferRequest],
        context: Any,
        answers: asyncio.Queue[inference.ModelStreamInferResponse | _End],
    ) -> None:
        places = asyncio.Semaphore(_MAX_NUM_AT_ONCE)
        calls: set[asyncio.Task[None]] = set()

        async def serve(request: inference.ModelInferRequest) -> None:
            try:
                asked = await self._asked(request, context)
                async with contextlib.aclosing(self._outputs(request, asked, context)) as responses:
                    async for response in responses:
                        await answers.put(inference.ModelStreamInferResponse(infer_response=response))
            except SpecGroveError as error:
                answer = inference.ModelStreamInferResponse(error_message=str(error))
                answer.infer_response.id = request.id
                await answers.put(answer)
            except Exception as error:
                await answers.put(_End(error))
            finally:
                places.release()

        try:
            async for request in requests:
                await places.acquire()
                call = asyncio.create_task(serve(request))
                calls.add(call)
                call.add_done_callback(calls.discard)
            await asyncio.gather(*calls)
            await answers.put(_End(None))
        except Exception as error:
            await answers.put(_End(error))
        finally:
            for call in tuple(calls):
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _info(self, context: Any) -> router_pb2.GetModelInfoResponse:
        return await self._servicer.GetModelInfo(router_pb2.GetModelInfoRequest(), context)

    async def _asked(self, request: inference.ModelInferRequest, context: Any) -> _Asked:
        info = await self._info(context)
        _check_model(info.model, request.model_name, request.model_version, "model_name", "model_version")
        values = input_values(request)
        text = values.get("text_input")
        if not isinstance(text, str):
            raise InvalidRequestError.of("inputs[text_input]", "is missing; it is the prompt")
        with renaming(_FIELD_NAMES):
            generate = wire.request_to_proto(text, **_parameters_of(request, values))
        return _Asked(
            generate,
            echo="" if values.get("exclude_input_in_output", True) else text,
            outputs=asked_outputs(request),
            is_streaming=bool(values.get("stream", False)),
            is_raw=bool(request.raw_input_contents),
        )

    async def _outputs(
        self, request: inference.ModelInferRequest, asked: _Asked, context: Any
    ) -> AsyncGenerator[inference.ModelInferResponse, None]:
        if CallIds(request.id).of_client is not None:  # another one leaves that of the metadata
            begin_call(request.id)
        output = _Output([asked.echo])
        with renaming(_FIELD_NAMES):
            async with contextlib.aclosing(self._servicer.Generate(asked.request, context)) as responses:
                async for piece in responses:
                    output.texts.append(piece.text)
                    output.last = piece
                    if asked.is_streaming and not piece.finish_reason and (text := "".join(output.texts)):
                        output.texts.clear()
                        yield _response(request, asked, {"text_output": text}, is_final=False)
        assert output.last is not None
        values: dict[str, Value] = {
            "text_output": "".join(output.texts),
            "finish_reason": FINISH_REASONS[output.last.finish_reason],
            "num_input_tokens": output.last.usage.num_prompt_tokens,
            "num_output_tokens": output.last.usage.num_output_tokens,
        }
        yield _response(request, asked, values, is_final=True)


def _response(
    request: inference.ModelInferRequest, asked: _Asked, values: dict[str, Value], *, is_final: bool
) -> inference.ModelInferResponse:
    response = inference.ModelInferResponse(model_name=request.model_name, model_version=_VERSION, id=request.id)
    response.parameters[_FINAL].bool_param = is_final
    add_outputs(response, {name: value for name, value in values.items() if name in asked.outputs}, is_raw=asked.is_raw)
    return response


def _check_model(served: str, name: str, version: str, name_field: str, version_field: str) -> None:
    if name != served:
        raise InvalidRequestError.of(name_field, f"{name!r} is not served here; {served!r} is")
    if version not in ("", _VERSION):
        raise InvalidRequestError.of(version_field, f"{version!r} is not served; there is {_VERSION!r}")


def _parameters_of(request: inference.ModelInferRequest, values: dict[str, Value]) -> dict[str, Any]:
    """Those of the JSON text and of the request's own map; a name in both is refused, as it is unclear which counts."""
    parameters: dict[str, Any] = {}
    if text := values.get("sampling_parameters"):
        try:
            parameters = json.loads(str(text))
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError.of("inputs[sampling_parameters]", f"is no JSON: {error}") from error
        if not isinstance(parameters, dict):
            raise InvalidRequestError.of("inputs[sampling_parameters]", 'must be an object, e.g. {"max_tokens": 16}')
    for name, value in request.parameters.items():
        if name in _IGNORED:
            continue
        if name in parameters:
            raise InvalidRequestError.of(f"parameters[{name}]", "is in sampling_parameters too: give one of them")
        kind = value.WhichOneof("parameter_choice")
        parameters[name] = None if kind is None else getattr(value, kind)
    for name in parameters:
        if name not in _PARAMETERS:
            known = ", ".join(sorted(_PARAMETERS))
            raise InvalidRequestError.of(f"sampling_parameters.{name}", f"is not known; there are {known}")
    return parameters
