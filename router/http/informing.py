"""The endpoints that tell something: of the model, of tokens, and of the router. Used by ``app``."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute

from router.http import answer_models as models
from router.http.asking import asked_tokenize
from router.http.bodies import DetokenizeBody, TokenizeBody
from router.http.calls import RouterCalls
from router.http.errors import SentNames
from router.http.large_bodies import converted
from specgrove.client import wire
from specgrove.v1 import router_pb2


def informing_endpoints(calls: RouterCalls, version: str, route_class: type[APIRoute]) -> APIRouter:
    """``version`` is the router's."""
    api = APIRouter(tags=["informing"], route_class=route_class)

    @api.get("/v1/models", response_model=models.ModelList)
    async def models_served() -> Any:
        """The one model that is served, by each of its names."""
        info = await calls.model_info()
        return {"object": "list", "data": [_model(info, name) for name in calls.names()]}

    @api.get("/v1/models/{model:path}", response_model=models.Model)
    async def model(model: str) -> Any:
        """A model by its name."""
        info = await calls.model_info()
        calls.check_name(model)
        return _model(info, model)

    @api.post("/tokenize", response_model=models.Tokens)
    async def tokenize(body: TokenizeBody, request: Request) -> Any:
        """Token ids of a text, or of a conversation by the model's chat template."""
        info = await _served(calls, body.model)
        asked, names = await converted(request, functools.partial(asked_tokenize, body))
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
            asked = await converted(request, functools.partial(wire.detokenize_request, body.tokens, True))
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


async def _served(calls: RouterCalls, model: str | None) -> router_pb2.GetModelInfoResponse:
    info = await calls.model_info()
    calls.check_name(model)
    return info


async def _texts_of_ids(calls: RouterCalls, token_ids: Sequence[int]) -> list[str]:
    texts: dict[int, str] = {}
    for token_id in dict.fromkeys(token_ids):
        asked = router_pb2.DetokenizeRequest(token_ids=[token_id], keep_special_tokens=True)
        texts[token_id] = (await calls.detokenize(asked)).text
        # None of the above need wait for anything, and there may be thousands.
        await asyncio.sleep(0)
    return [texts[token_id] for token_id in token_ids]


def _model(info: router_pb2.GetModelInfoResponse, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "specgrove",
        "max_model_len": info.max_model_len,
    }
