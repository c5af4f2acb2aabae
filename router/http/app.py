"""The HTTP API's endpoints. Made by ``server``; each converts a body, calls the router's service, and answers.

``docs/http.md`` is its manual, ``/docs`` and ``/openapi.json`` describe it for machines.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from router.http import answer_models as models
from router.http.answers import StreamedAnswer, WholeAnswer
from router.http.asking import AskedPrompt, asked_chat, asked_completion, num_completions_of
from router.http.bodies import Body, ChatBody, CompletionBody, DetokenizeBody, TokenizeBody
from router.http.body_limit import BodyLimit
from router.http.calls import RouterCalls, peer_of
from router.http.chat import ChatFormat
from router.http.completions import CompletionFormat
from router.http.errors import failure_of, http_failure, invalid_body, no_such_path, unreadable_body
from router.http.generate import GenerateAnswer, GenerateBody, GenerateFormat, asked_generate
from router.http.heads import new_head
from router.http.informing import informing_endpoints
from router.http.keys import KeyCheck
from router.http.large_bodies import LargeBodies, converted, routes_in_turns
from router.http.long_answers import LongAnswers
from router.http.outputs import outputs_of
from router.http.page import ChatPage, PageOrApi, is_api_path
from router.http.refused import refusals
from router.http.request_ids import RequestIds
from router.http.response_counts import ResponseCounting, ResponseCounts
from router.http.responses.asked import asked_response, chat_tools
from router.http.responses.bodies import ResponsesBody
from router.http.responses.format import ResponsesFormat
from router.http.responses.models import ResponsesAnswer
from router.http.tool_calls import FORCED
from router.http.trace_headers import TraceHeaders
from router.http.unforeseen import Unforeseen
from router.http.usual_paths import UsualPaths
from router.key_limits import RATE_LIMIT_HEADERS
from router.request_ids import HEADER as REQUEST_ID
from router.request_ids import ids_under_way
from specgrove.errors import InternalError, SpecGroveError
from specgrove.serving.api_keys import ASKING_KEY, ApiKeys
from specgrove.serving.key_file import ApiKey
from specgrove.v1 import router_pb2

logger = logging.getLogger(__name__)

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "An answer, or with `stream` its chunks as events, the last of which is `[DONE]`.",
        "content": {"text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}}},
    }
}


# For probes, and for people who look: they need no key.
_PROBED = ("/health",)
_DESCRIPTIONS = ("/docs", "/openapi.json")


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """What is taken of clients, and from whom. Without ``keys`` everybody may ask; browsers only from pages of ``origins``.

    ``key_headers`` are those of an answer that tell what is left to a key. ``recommends_sampling``: parameters that are left out have the
    values that the model recommends. ``describes_itself``: there are ``/docs`` and ``/openapi.json``.
    """

    max_body_bytes: int
    write_timeout_s: float | None = None
    keys: ApiKeys | None = None
    key_headers: Callable[[ApiKey], Mapping[str, str]] = lambda key: {}
    origins: tuple[str, ...] = ()
    recommends_sampling: bool = True
    describes_itself: bool = True


def make_app(
    calls: RouterCalls,
    settings: ApiSettings,
    version: str,
    metrics: ASGIApp | None,
    response_counts: ResponseCounts,
    page: ChatPage | None = None,
) -> FastAPI:
    """The application for a server. ``metrics`` answers ``/metrics``, if anything does; responses are counted in ``response_counts``.

    With ``page`` there is a chat page at ``/``.
    """
    app = FastAPI(
        title="SpecGrove",
        version=version,
        description="Text from a large language model, in the form of OpenAI's API.",
        redoc_url=None,
        docs_url="/docs" if settings.describes_itself else None,
        openapi_url="/openapi.json" if settings.describes_itself else None,
        redirect_slashes=False,
        responses={
            "4XX": {"model": models.ErrorAnswer, "description": "The request is wrong, or comes too early."},
            "5XX": {"model": models.ErrorAnswer, "description": "The router can't serve it."},
        },
    )
    in_turns = routes_in_turns(settings.max_body_bytes, LargeBodies())
    app.include_router(_generating(calls, settings, in_turns))
    app.include_router(informing_endpoints(calls, version, in_turns))
    if metrics is not None:
        app.add_route("/metrics", metrics, methods=["GET"])  # type: ignore[arg-type]  # it takes applications, too
    api_paths = {route.path for route in iter_route_contexts(app.routes) if route.path is not None}
    _handle_errors(app, api_paths)
    if page is not None:
        app.add_middleware(PageOrApi, page=page, api_paths=api_paths)
    app.add_middleware(TraceHeaders)
    app.add_middleware(BodyLimit, max_num_bytes=settings.max_body_bytes)
    if settings.keys is not None:
        is_page = functools.partial(_is_page, api_paths=api_paths) if page is not None else _never
        app.add_middleware(
            KeyCheck,
            keys=settings.keys,
            # Where the API doesn't describe itself, a page's process might be behind these names.
            open_paths=(*_PROBED, *(_DESCRIPTIONS if settings.describes_itself else ())),
            is_page=is_page,
            headers_of=settings.key_headers,
        )
    app.add_middleware(Unforeseen)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            # Browsers ask so for addresses of one's own network; which pages may ask is said already.
            allow_private_network=True,
            expose_headers=(REQUEST_ID, "retry-after", "retry-after-ms", *RATE_LIMIT_HEADERS),
        )
    app.add_middleware(ResponseCounting, counts=response_counts)
    app.add_middleware(UsualPaths, api_paths=api_paths)
    app.add_middleware(RequestIds)
    return app


def _generating(calls: RouterCalls, settings: ApiSettings, route_class: type[APIRoute]) -> APIRouter:
    api = APIRouter(tags=["generating"], route_class=route_class)
    long_answers = LongAnswers()

    def answer(
        request: Request,
        prompts: Sequence[AskedPrompt],
        form: ChatFormat | CompletionFormat | ResponsesFormat,
        *,
        is_stream: bool,
        include_stop_text: bool,
    ) -> Response:
        pieces = outputs_of(calls, prompts, _peer_of(request), include_stop_text=include_stop_text)
        if is_stream:
            return StreamedAnswer(pieces, form, settings.write_timeout_s)
        made_beside = functools.partial(long_answers.made, _client_of(request))
        return WholeAnswer(pieces, form, settings.write_timeout_s, made_beside)

    def recommended_by(info: router_pb2.GetModelInfoResponse) -> Mapping[str, float] | None:
        if not settings.recommends_sampling:
            return None
        # As they are in the file, of which protobuf's floats have six digits.
        return {field.name: round(value, 6) for field, value in info.recommended_sampling.ListFields()}

    @api.post("/v1/completions", response_model=models.CompletionAnswer, response_class=JSONResponse, responses=_EVENTS)
    async def completions(body: CompletionBody, request: Request) -> Response:
        """Continues a text, or token ids. With `stream`, answers with events of such objects."""
        calls.check_num_outputs(num_completions_of(body), "n" if body.n > 1 else "prompt")
        info = await calls.model_info()
        prompts = await converted(request, functools.partial(asked_completion, body, recommended=recommended_by(info)))
        form = CompletionFormat(
            new_head("cmpl", info, calls.numerics_digest()),
            num_per_prompt=body.n,
            echoes=[await _text_of(calls, prompt) for prompt in prompts] if body.echo else (),
            has_log_probs=body.logprobs is not None,
            has_prompt_log_probs=body.prompt_logprobs is not None,
            stream_options=body.stream_options,
        )
        return answer(request, prompts, form, is_stream=body.stream, include_stop_text=body.include_stop_str_in_output)

    @api.post("/v1/chat/completions", response_model=models.ChatAnswer, response_class=JSONResponse, responses=_EVENTS)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        """Answers a conversation. With `stream`, answers with events of `chat.completion.chunk` objects."""
        calls.check_num_outputs(body.n, "n")
        info = await calls.model_info()
        called = calls.tool_call_format()
        keeps_special_tokens = body.has_tools and called.keeps_special_tokens
        convert = functools.partial(
            asked_chat, body, keeps_special_tokens=keeps_special_tokens, recommended=recommended_by(info)
        )
        prompt = await converted(request, convert)
        called = FORCED if prompt.is_structured else called
        form = ChatFormat(
            new_head("chatcmpl", info, calls.numerics_digest()),
            num_outputs=body.n,
            readers=called.readers(body.tools, body.n, may_be_many=body.parallel_tool_calls) if body.has_tools else (),
            has_log_probs=body.logprobs,
            has_prompt_log_probs=body.prompt_logprobs is not None,
            stream_options=body.stream_options,
        )
        return answer(
            request, (prompt,), form, is_stream=body.stream, include_stop_text=body.include_stop_str_in_output
        )

    @api.post("/v1/responses", response_model=ResponsesAnswer, response_class=JSONResponse, responses=_EVENTS)
    async def responses(body: ResponsesBody, request: Request) -> Response:
        """Answers a conversation, and keeps nothing. With `stream`, answers with events that have types."""
        info = await calls.model_info()
        recommended = recommended_by(info)
        called = calls.tool_call_format()
        keeps_special_tokens = body.has_tools and called.keeps_special_tokens
        convert = functools.partial(
            asked_response, body, keeps_special_tokens=keeps_special_tokens, recommended=recommended
        )
        prompt = await converted(request, convert)
        called = FORCED if prompt.is_structured else called
        reader = None
        if body.has_tools:
            (reader,) = called.readers(chat_tools(body), 1, may_be_many=body.parallel_tool_calls)
        form = ResponsesFormat(new_head("resp", info, calls.numerics_digest()), body, reader, recommended or {})
        return answer(
            request, (prompt,), form, is_stream=body.stream, include_stop_text=body.include_stop_str_in_output
        )

    @api.post("/generate", include_in_schema=False, response_model=None)
    @api.post("/generate/", response_model=GenerateAnswer, response_class=JSONResponse)
    async def generate(body: GenerateBody, request: Request) -> Response:
        """Continues a text, greedily, as the FastAPI entry point of FlexFlow Serve does."""
        prompt = await converted(request, functools.partial(asked_generate, body))
        pieces = outputs_of(calls, (prompt,), _peer_of(request), include_stop_text=False)
        made_beside = functools.partial(long_answers.made, _client_of(request))
        return WholeAnswer(pieces, GenerateFormat(body.prompt), settings.write_timeout_s, made_beside)

    return api


def _client_of(request: Request) -> str:
    """The name of its key, or its machine."""
    if (key := ASKING_KEY.get()) is not None:
        return key.name
    return request.client.host if request.client else ""


def _peer_of(request: Request) -> str:
    return peer_of(request.client and (request.client.host, request.client.port))


async def _text_of(calls: RouterCalls, prompt: AskedPrompt) -> str:
    request = prompt.requests[0]
    if request.WhichOneof("prompt") == "text":
        return request.text
    ids = request.token_ids.token_ids
    with prompt.names.renaming():
        asked = router_pb2.DetokenizeRequest(token_ids=ids, keep_special_tokens=request.keep_special_tokens)
        return (await calls.detokenize(asked)).text


def _handle_errors(app: FastAPI, api_paths: Collection[str]) -> None:
    """Everything that goes wrong, in one form; what nobody foresaw is ``Unforeseen``'s."""

    @app.exception_handler(SpecGroveError)
    async def ours(request: Request, error: SpecGroveError) -> Response:
        if isinstance(error, InternalError):
            words = ids_under_way().words_of_client
            logger.error("%s %s: %s%s", request.method, request.url.path, error, words)
        return failure_of(error).response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        body = _BODIES.get(request.url.path)
        names = () if body is None else tuple(body.model_fields)
        return invalid_body(error.errors(), names, refusals()).response()

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> Response:
        failure = unreadable_body(error.__cause__) if error.status_code == 400 else None
        detail = no_such_path(request.url.path, api_paths) if error.status_code == 404 else error.detail
        failure = failure or http_failure(error.status_code, f"{request.method} {request.url.path}: {detail}")
        response = failure.response()
        response.headers.update(error.headers or {})
        return response


_BODIES: dict[str, type[Body]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/responses": ResponsesBody,
    "/generate": GenerateBody,
    "/generate/": GenerateBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}


def _is_page(path: str, *, api_paths: Collection[str]) -> bool:
    return not is_api_path(path, api_paths)


def _never(path: str) -> bool:
    return False
