"""The HTTP API's endpoints. Made by ``server``; each converts a body, calls the router's service, and answers.

``docs/http.md`` is its manual, ``/docs`` and ``/openapi.json`` describe it for machines.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from router.http import answer_models as models
from router.http.answers import Answer, AnswerFormat
from router.http.asking import AskedPrompt, asked_chat, asked_completion, asked_tokenize
from router.http.bodies import ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from router.http.body_limit import BodyLimit
from router.http.calls import RouterCalls, peer_of
from router.http.chat import ChatFormat
from router.http.completions import CompletionFormat
from router.http.errors import INTERNAL_FAILURE, SentNames, failure_of, http_failure, invalid_body
from router.http.heads import new_head
from router.http.keys import KeyCheck
from router.http.outputs import outputs_of
from router.http.refused import refusals
from specgrove import client_wire
from specgrove.errors import InternalError, InvalidRequestError, SpecGroveError
from specgrove.serving.api_keys import ApiKeys
from specgrove.v1 import router_pb2

logger = logging.getLogger(__name__)

# Longer bodies are converted beside the event loop.
_LONG_BYTES = 32 * 1024

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An answer, or with `stream` its chunks as events, the last of which is `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}},
    }
}

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """What is taken of clients, and from whom. Without ``keys`` everybody may ask; browsers only from pages of ``origins``."""

    max_body_bytes: int
    write_timeout_s: float | None = None
    keys: ApiKeys | None = None
    origins: tuple[str, ...] = ()


def make_app(calls: RouterCalls, limits: ApiLimits, version: str) -> FastAPI:
    """The application for a server."""
    app = FastAPI(
        title="SpecGrove",
        version=version,
        description="Text from a large language model, in the form of OpenAI's API.",
        redoc_url=None,
        responses={
            "4XX": {"model": models.ErrorAnswer, "description": "The request is wrong, or comes too early."},
            "5XX": {"model": models.ErrorAnswer, "description": "The router can't serve it."},
        },
    )
    app.include_router(_generating(calls, limits))
    app.include_router(_informing(calls, version))
    _handle_errors(app)
    app.add_middleware(BodyLimit, max_num_bytes=limits.max_body_bytes)
    if limits.keys is not None:
        app.add_middleware(KeyCheck, keys=limits.keys)
    if limits.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("retry-after", "retry-after-ms"),
        )
    return app


def _generating(calls: RouterCalls, limits: ApiLimits) -> APIRouter:
    api = APIRouter(tags=["generating"])

    def answer(
        request: Request, prompts: Sequence[AskedPrompt], body: ChatBody | CompletionBody, form: AnswerFormat
    ) -> Answer:
        client = request.client and (request.client.host, request.client.port)
        pieces = outputs_of(calls, prompts, peer_of(client), include_stop_text=body.include_stop_str_in_output)
        return Answer(pieces, form, is_stream=body.stream, write_timeout_s=limits.write_timeout_s)

    @api.post("/v1/completions", response_model=models.CompletionAnswer, response_class=JSONResponse, responses=_EVENTS)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Continues a text, or token ids. With `stream`, answers with events of such objects."""
        prompts = await _converted(request, functools.partial(asked_completion, body))
        form = CompletionFormat(
            new_head("cmpl", await calls.model_info()),
            num_per_prompt=body.n,
            echoes=[await _text_of(calls, prompt) for prompt in prompts] if body.echo else (),
            has_log_probs=body.logprobs is not None,
            wants_usage=body.wants_stream_usage,
        )
        return answer(request, prompts, body, form)

    @api.post("/v1/chat/completions", response_model=models.ChatAnswer, response_class=JSONResponse, responses=_EVENTS)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answers a conversation. With `stream`, answers with events of `chat.completion.chunk` objects."""
        called = calls.tool_call_format()
        keeps_special_tokens = body.has_tools and called.keeps_special_tokens
        prompt = await _converted(
            request, functools.partial(asked_chat, body, keeps_special_tokens=keeps_special_tokens)
        )
        form = ChatFormat(
            new_head("chatcmpl", await calls.model_info()),
            num_outputs=body.n,
            readers=called.readers(body.tools, body.n) if body.has_tools else (),
            has_log_probs=body.logprobs,
            wants_usage=body.wants_stream_usage,
        )
        return answer(request, (prompt,), body, form)

    return api


def _informing(calls: RouterCalls, version: str) -> APIRouter:
    api = APIRouter(tags=["informing"])

    @api.get("/v1/models", response_model=models.ModelList)
    async def models_served() -> Any:
        """The one model that is served."""
        return {"object": "list", "data": [_model(await calls.model_info())]}

    @api.get("/v1/models/{model:path}", response_model=models.Model)
    async def model(model: str) -> Any:
        """A model by its name."""
        info = await calls.model_info()
        if model != info.model:
            description = f"{model!r} is not served here; this router serves {info.model!r}"
            raise InvalidRequestError.of("model", description)
        return _model(info)

    @api.post("/tokenize", response_model=models.Tokens)
    async def tokenize(body: TokenizeBody, request: Request) -> Any:
        """Token ids of a text, or of a conversation by the model's chat template."""
        info = await _served(calls, body.model)
        asked, names = await _converted(request, functools.partial(asked_tokenize, body))
        with names.renaming():
            token_ids = list((await calls.tokenize(asked)).token_ids)
        texts = None
        if body.return_token_strs:
            texts = await _texts_of_ids(calls, token_ids)
        return {"count": len(token_ids), "max_model_len": info.max_model_len, "tokens": token_ids, "token_strs": texts}

    @api.post("/detokenize", response_model=models.Detokenized)
    async def detokenize(body: DetokenizeBody, request: Request) -> Any:
        """The text of token ids, special tokens with theirs."""
        await _served(calls, body.model)
        with SentNames("tokens").renaming():
            asked = await _converted(request, functools.partial(client_wire.detokenize_request, body.tokens, True))
            return {"prompt": (await calls.detokenize(asked)).text}

    @api.get("/health", response_model=models.Health)
    async def health() -> Response:
        """Status 200 while requests are served, else 503."""
        is_serving = calls.is_serving()
        return JSONResponse({"status": "serving" if is_serving else "not serving"}, 200 if is_serving else 503)

    @api.get("/version", response_model=models.Version)
    async def version_of_router() -> Any:
        """SpecGrove's."""
        return {"version": version}

    return api


async def _converted(request: Request, convert: Callable[[], ValueT]) -> ValueT:
    """Where there is much to convert, the event loop gets its turns meanwhile."""
    if len(await request.body()) < _LONG_BYTES:
        return convert()
    return await asyncio.to_thread(convert)


async def _served(calls: RouterCalls, model: str | None) -> router_pb2.GetModelInfoResponse:
    info = await calls.model_info()
    if model not in (None, "", info.model):
        raise InvalidRequestError.of("model", f"{model!r} is not served here; this router serves {info.model!r}")
    return info


async def _text_of(calls: RouterCalls, prompt: AskedPrompt) -> str:
    request = prompt.requests[0]
    if request.WhichOneof("prompt") == "text":
        return request.text
    ids = request.token_ids.token_ids
    with prompt.names.renaming():
        asked = router_pb2.DetokenizeRequest(token_ids=ids, keep_special_tokens=request.keep_special_tokens)
        return (await calls.detokenize(asked)).text


async def _texts_of_ids(calls: RouterCalls, token_ids: Sequence[int]) -> list[str]:
    texts: dict[int, str] = {}
    for token_id in dict.fromkeys(token_ids):
        asked = router_pb2.DetokenizeRequest(token_ids=[token_id], keep_special_tokens=True)
        texts[token_id] = (await calls.detokenize(asked)).text
        # None of the above need wait for anything, and there may be thousands.
        await asyncio.sleep(0)
    return [texts[token_id] for token_id in token_ids]


def _model(info: router_pb2.GetModelInfoResponse) -> dict[str, object]:
    return {
        "id": info.model,
        "object": "model",
        "created": 0,
        "owned_by": "specgrove",
        "max_model_len": info.max_model_len,
    }


def _handle_errors(app: FastAPI) -> None:
    """Everything that goes wrong, in one form."""

    @app.exception_handler(SpecGroveError)
    async def ours(request: Request, error: SpecGroveError) -> Response:
        if isinstance(error, InternalError):
            logger.error("%s %s: %s", request.method, request.url.path, error)
        return failure_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        body = _BODIES.get(request.url.path)
        names = () if body is None else tuple(body.model_fields)
        return invalid_body(error.errors(), names, refusals()).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> Response:
        response = http_failure(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return INTERNAL_FAILURE.response()


_BODIES: dict[str, type[ChatBody] | type[CompletionBody] | type[TokenizeBody] | type[DetokenizeBody]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}
