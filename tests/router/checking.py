"""Requests with some fields, checked as the router does it, for a toy model."""

from __future__ import annotations

import json
from typing import Any

from router.served_model import ServedModel
from router.structure_check import StructureCheck
from router.text_work import TextWork
from router.validation import CheckedRequest, check_fields, checked_request
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2, token_tree_pb2
from tests.router.toy_language import CHAT_TEMPLATE, EOS, VOCAB_SIZE, toy_tokenizer_json
from tests.router.toy_services import CONTEXT_LEN
from tests.waiting import LIMIT_S

TOKENIZER = Tokenizer(toy_tokenizer_json(), json.loads('{"eos_token": "<eos>"}'), CHAT_TEMPLATE)


MODEL = ServedModel("toy", "Toy", VOCAB_SIZE, CONTEXT_LEN, "float32", (EOS,), 64, TOKENIZER, (EOS, 10))


async def checked_of(**fields: Any) -> CheckedRequest:
    if not {"text", "chat", "token_ids", "no_prompt"} & fields.keys():
        fields["text"] = "hello"
    fields.pop("no_prompt", None)
    proto = router_pb2.GenerateRequest(**fields)
    check_fields(proto, MODEL, ("lookup",))
    return await checked_request(
        proto, MODEL, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
    )


def sampling_of(**fields: Any) -> dict[str, Any]:
    return {"sampling": token_tree_pb2.SamplingParams(**fields)}


def structured_of(**fields: Any) -> dict[str, Any]:
    return sampling_of(structured_output=token_tree_pb2.StructuredOutput(**fields))


def chat_of(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"chat": router_pb2.Chat(messages=[router_pb2.ChatMessage(role=r, content=c) for r, c in messages])}


def chat_with(**fields: Any) -> dict[str, Any]:
    return {"chat": router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="hi")], **fields)}


def ids_of(*token_ids: int) -> dict[str, Any]:
    return {"token_ids": router_pb2.TokenIds(token_ids=token_ids)}
