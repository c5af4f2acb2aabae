"""Asking the router: a request with the usual fields, all its responses, and what is in them."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from specgrove.v1 import router_pb2, token_tree_pb2
from tests.waiting import LIMIT_S

PROMPT = list(b"Hello, tree")


class HasStub(Protocol):
    """A router's, e.g. that of a toy suite."""

    stub: Any


def request_of(**fields: Any) -> router_pb2.GenerateRequest:
    fields.setdefault("max_tokens", 60)
    fields.setdefault("sampling", token_tree_pb2.SamplingParams(seed=0))
    if not {"text", "chat", "token_ids"} & fields.keys():
        fields["text"] = bytes(PROMPT).decode()
    return router_pb2.GenerateRequest(**fields)


async def responses_to(suite: HasStub, request: router_pb2.GenerateRequest) -> list[router_pb2.GenerateResponse]:
    async with asyncio.timeout(LIMIT_S):
        return [response async for response in suite.stub.Generate(request)]


def token_ids_of(responses: list[router_pb2.GenerateResponse]) -> list[int]:
    return [token.token_id for response in responses for token in response.tokens]


def text_of(responses: list[router_pb2.GenerateResponse]) -> str:
    return "".join(response.text for response in responses)
