"""Each wrong value names its field; several are all named."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest

from router.served_model import ServedModel
from router.validation import CheckedRequest, checked_request
from specgrove.errors import InvalidRequestError
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2, token_tree_pb2
from tests.router.toy_language import CHAT_TEMPLATE, EOS, VOCAB_SIZE, toy_tokenizer_json
from tests.router.toy_services import CONTEXT_LEN

TOKENIZER = Tokenizer(toy_tokenizer_json(), json.loads('{"eos_token": "<eos>"}'), CHAT_TEMPLATE)
MODEL = ServedModel("toy", "Toy", VOCAB_SIZE, CONTEXT_LEN, "float32", (EOS,), 64, TOKENIZER)


async def _checked(**fields: Any) -> CheckedRequest:
    if not {"text", "chat", "token_ids", "no_prompt"} & fields.keys():
        fields["text"] = "hello"
    fields.pop("no_prompt", None)
    return await checked_request(
        router_pb2.GenerateRequest(**fields), MODEL, ("lookup",), session_id="s", deadline_s=None
    )


def _sampling(**fields: Any) -> dict[str, Any]:
    return {"sampling": token_tree_pb2.SamplingParams(**fields)}


def _chat(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"chat": router_pb2.Chat(messages=[router_pb2.ChatMessage(role=r, content=c) for r, c in messages])}


def _ids(*token_ids: int) -> dict[str, Any]:
    return {"token_ids": router_pb2.TokenIds(token_ids=token_ids)}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"no_prompt": True}, "prompt"),
    ({"text": ""}, "text"),
    ({"text": "x" * CONTEXT_LEN}, "text"),
    ({"text": "x" * 1_000_000}, "text"),
    (_chat(), "chat.messages"),
    (_chat(("system", ""), ("user", "")), "chat.messages[1].content"),
    (_chat(("user", "hi"), ("robot", "hi")), "chat.messages[1].role"),
    (_chat(("user", "x" * 1_000_000)), "chat"),
    (_ids(), "token_ids.token_ids"),
    (_ids(1, VOCAB_SIZE), "token_ids.token_ids"),
    (_ids(*[1] * (CONTEXT_LEN + 1)), "token_ids"),
    ({"model": "gpt"}, "model"),
    ({"max_tokens": CONTEXT_LEN}, "max_tokens"),
    (_sampling(temperature=-1), "sampling.temperature"),
    (_sampling(temperature=math.nan), "sampling.temperature"),
    (_sampling(temperature=math.inf), "sampling.temperature"),
    (_sampling(temperature=101), "sampling.temperature"),
    (_sampling(top_p=0), "sampling.top_p"),
    (_sampling(top_p=1.01), "sampling.top_p"),
    (_sampling(top_p=math.nan), "sampling.top_p"),
    (_sampling(min_p=-0.1), "sampling.min_p"),
    (_sampling(min_p=1.1), "sampling.min_p"),
    (_sampling(repetition_penalty=0), "sampling.repetition_penalty"),
    (_sampling(repetition_penalty=11), "sampling.repetition_penalty"),
    (_sampling(presence_penalty=-2.1), "sampling.presence_penalty"),
    (_sampling(frequency_penalty=2.1), "sampling.frequency_penalty"),
    (_sampling(logit_bias={VOCAB_SIZE: 1.0}), "sampling.logit_bias"),
    (_sampling(logit_bias={1: 101.0}), "sampling.logit_bias"),
    (_sampling(logit_bias={1: math.nan}), "sampling.logit_bias"),
    (_sampling(logit_bias=dict.fromkeys(range(1025), 0.0)), "sampling.logit_bias"),
    (_sampling(stop_token_ids=[VOCAB_SIZE]), "sampling.stop_token_ids"),
    (_sampling(stop_token_ids=range(65)), "sampling.stop_token_ids"),
    (_sampling(num_log_probs=21), "sampling.num_log_probs"),
    (_sampling(min_tokens=9) | {"max_tokens": 8}, "sampling.min_tokens"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["ok", "x" * 257]}, "stop[1]"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"speculation": router_pb2.SpeculationOptions(ssms=["magic"])}, "speculation.ssms"),
    ({"speculation": router_pb2.SpeculationOptions(max_depth=2**32 - 1)}, "speculation.max_depth"),
    ({"speculation": router_pb2.SpeculationOptions(max_num_nodes=256)}, "speculation.max_num_nodes"),
    ({"speculation": router_pb2.SpeculationOptions(beam_width=65)}, "speculation.beam_width"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG, ids=[f"{i}-{field}" for i, (_, field) in enumerate(WRONG)])
async def test_a_wrong_value_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as info:
        await _checked(**fields)
    assert field in {violation.field for violation in info.value.violations}
    assert len(str(info.value)) < 1000


async def test_all_violations_are_told_at_once() -> None:
    with pytest.raises(InvalidRequestError) as info:
        await _checked(model="gpt", text="", stop=[""], **_sampling(temperature=-1, top_p=2, num_log_probs=99))
    fields = [violation.field for violation in info.value.violations]
    assert fields == ["model", "sampling.temperature", "sampling.top_p", "sampling.num_log_probs", "stop[0]", "text"]


async def test_a_megabyte_is_refused_without_tokenising() -> None:
    started_s = time.perf_counter()
    with pytest.raises(InvalidRequestError, match=r"1000.* bytes.*context is 512 tokens"):
        await _checked(text="x" * 1_000_000)
    assert time.perf_counter() - started_s < 0.05


async def test_defaults_are_filled_in() -> None:
    checked = await _checked(stop=["\n"])
    request = checked.request
    assert request.prompt_token_ids == tuple(b"hello")
    assert request.max_tokens == CONTEXT_LEN - 5
    assert request.sampling.stop_token_ids == (EOS,)
    assert request.sampling.top_p == request.sampling.repetition_penalty == 1.0
    assert request.sampling.seed != (await _checked()).request.sampling.seed
    assert checked.stop_texts == ("\n",)
    assert (await _checked(ignore_eos=True)).request.sampling.stop_token_ids == ()
    assert (await _checked(**_sampling(seed=0))).request.sampling.seed == 0


async def test_limits_themselves_are_allowed() -> None:
    await _checked(max_tokens=CONTEXT_LEN - 5, stop=["x" * 256] * 16)
    await _checked(**_ids(*[0] * (CONTEXT_LEN - 1)))
    await _checked(**_sampling(temperature=100, top_p=1, min_p=1, repetition_penalty=10, presence_penalty=2))
    await _checked(**_sampling(num_log_probs=20, logit_bias={0: -100.0, VOCAB_SIZE - 1: 100.0}))
