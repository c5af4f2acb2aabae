"""Whatever a client sends is either refused with its field's name, or a request that can be run."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from router.structure_check import StructureCheck
from router.text_work import TextWork
from router.validation import CheckedRequest, check_fields, checked_request
from specgrove.errors import InvalidRequestError
from specgrove.v1 import router_pb2
from tests.router.test_validation import MODEL
from tests.router.toy_language import VOCAB_SIZE
from tests.router.toy_services import CONTEXT_LEN
from tests.waiting import LIMIT_S

numbers = st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1))
floats = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, math.nan, math.inf, -math.inf, -1.0, 1e-40, 3e38]), st.floats(width=32)
)
ids = st.lists(st.one_of(st.integers(0, VOCAB_SIZE), st.integers(0, 2**32 - 1)), max_size=70)
texts = st.text(max_size=40)
values = st.recursive(st.none() | st.booleans() | st.floats() | texts, lambda inner: st.lists(inner, max_size=3))
json_texts = st.dictionaries(texts, values, max_size=3).map(json.dumps) | values.map(json.dumps) | texts

sampling = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), floats),
        **dict.fromkeys(("presence_penalty", "frequency_penalty"), floats),
        **dict.fromkeys(("top_k", "min_tokens", "num_log_probs"), numbers),
        "seed": st.integers(0, 2**64 - 1),
        "logit_bias": st.dictionaries(numbers, floats, max_size=4),
        "stop_token_ids": ids,
    },
)
messages = st.lists(
    st.fixed_dictionaries({}, optional={"role": texts, "content": texts, "attributes_json": json_texts}), max_size=4
)
chats = st.fixed_dictionaries(
    {"messages": messages},
    optional={
        "chat_template_kwargs_json": json_texts,
        "add_generation_prompt": st.booleans(),
        "continue_final_message": st.booleans(),
    },
)
prompts = st.one_of(
    st.fixed_dictionaries({"text": texts}),
    st.fixed_dictionaries({"chat": chats}),
    st.fixed_dictionaries({"token_ids": st.fixed_dictionaries({"token_ids": ids})}),
    st.just({}),
)
others = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["", "toy", "gpt"]),
        "sampling": sampling,
        "max_tokens": numbers,
        "stop": st.lists(texts, max_size=18),
        "ignore_eos": st.booleans(),
        "speculation": st.fixed_dictionaries(
            {},
            optional={
                "ssms": st.lists(st.sampled_from(["lookup", "magic", ""]), max_size=70),
                **dict.fromkeys(("max_num_nodes", "max_depth", "beam_width"), numbers),
            },
        ),
    },
)


async def outcome_of(proto: router_pb2.GenerateRequest) -> CheckedRequest | InvalidRequestError:
    try:
        check_fields(proto, MODEL, ("lookup",))
        return await checked_request(
            proto, MODEL, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
        )
    except InvalidRequestError as error:
        return error


@given(prompts, others)
async def test_any_request_is_refused_by_name_or_can_be_run(prompt: dict[str, Any], fields: dict[str, Any]) -> None:
    outcome = await outcome_of(router_pb2.GenerateRequest(**prompt, **fields))
    if isinstance(outcome, InvalidRequestError):
        assert 1 <= len(outcome.violations) <= 16
        assert all(violation.field and violation.description for violation in outcome.violations)
        return
    request, params = outcome.request, outcome.request.sampling
    assert 1 <= len(request.prompt_token_ids) < CONTEXT_LEN
    assert 1 <= request.max_tokens <= CONTEXT_LEN - len(request.prompt_token_ids)
    assert params.min_tokens <= request.max_tokens
    assert all(0 <= token_id < VOCAB_SIZE for token_id in (*request.prompt_token_ids, *params.stop_token_ids))
    assert 0 <= params.top_k < VOCAB_SIZE
    assert 0 < params.top_p <= 1
    assert 0 <= params.temperature <= 100
    assert len(set(outcome.stop_texts)) == len(outcome.stop_texts) <= 16
