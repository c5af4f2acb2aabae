"""What callers give the clients: the same thing in every type that means it, and a named field where the meaning isn't clear."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from specgrove.client.arguments import timeout_of
from specgrove.client.retries import RetryPolicy
from specgrove.client.wire import detokenize_request, request_to_proto, tokenize_request
from specgrove.errors import InvalidRequestError
from specgrove.loop.request import SpeculationOptions
from specgrove.v1 import router_pb2

CONVERSATION = [("system", "be brief"), ("user", "hi")]


def messages_of(prompt: Any) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in request_to_proto(prompt).chat.messages]


@pytest.mark.parametrize("stop", ["\nUser:", ["\nUser:"], ("\nUser:",), {"\nUser:"}, iter(["\nUser:"])])
def test_a_stop_text_alone_is_one_stop_text(stop: Any) -> None:
    assert list(request_to_proto("hi", stop=stop).stop) == ["\nUser:"]


def test_an_ssms_name_alone_is_one_name() -> None:
    options = SpeculationOptions(ssms="lookup")  # type: ignore[arg-type]
    assert list(request_to_proto("hi", speculation=options).speculation.ssms) == ["lookup"]


def _generated(values: Any) -> Iterator[Any]:
    yield from values


IDS = [[5, 6], (5, 6), range(5, 7), np.array([5, 6]), np.array([5, 6], np.uint16), [np.int64(5), 6], _generated([5, 6])]


@pytest.mark.parametrize("ids", IDS, ids=lambda ids: type(ids).__name__)
def test_token_ids_come_in_any_type_of_whole_numbers(ids: Any) -> None:
    ids = list(ids) if isinstance(ids, Iterator) else ids
    assert list(request_to_proto(ids).token_ids.token_ids) == [5, 6]
    assert list(request_to_proto(iter(ids)).token_ids.token_ids) == [5, 6]
    assert list(request_to_proto("hi", stop_token_ids=ids).sampling.stop_token_ids) == [5, 6]
    assert list(detokenize_request(ids, False).token_ids) == [5, 6]


def test_tensors_of_token_ids() -> None:
    torch = pytest.importorskip("torch")
    assert list(request_to_proto(torch.tensor([5, 6])).token_ids.token_ids) == [5, 6]
    assert list(request_to_proto("hi", stop_token_ids=torch.tensor([5, 6])).sampling.stop_token_ids) == [5, 6]


def test_numbers_of_numpy_are_numbers() -> None:
    request = request_to_proto("hi", max_tokens=np.int64(5), temperature=np.float32(0.5), top_k=np.int32(-1))  # type: ignore[arg-type]
    assert (request.max_tokens, request.sampling.temperature, request.sampling.top_k) == (5, 0.5, 0)
    with pytest.raises(InvalidRequestError, match=r"sampling\.top_k: must be a whole number"):
        request_to_proto("hi", top_k=np.array([1, 2]))  # type: ignore[arg-type]


def test_stop_token_ids_may_be_a_set_or_one_id() -> None:
    assert sorted(request_to_proto("hi", stop_token_ids={5, 6}).sampling.stop_token_ids) == [5, 6]
    assert list(request_to_proto("hi", stop_token_ids=5).sampling.stop_token_ids) == [5]
    one: Any = np.int32(5)
    assert list(request_to_proto("hi", stop_token_ids=one).sampling.stop_token_ids) == [5]


@pytest.mark.parametrize(
    "prompt",
    [
        CONVERSATION,
        [list(pair) for pair in CONVERSATION],
        [{"role": role, "content": content} for role, content in CONVERSATION],
        [router_pb2.ChatMessage(role=role, content=content) for role, content in CONVERSATION],
        [CONVERSATION[0], {"role": "user", "content": "hi"}],
        [CONVERSATION[0], {"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        iter(CONVERSATION),
    ],
)
def test_conversations_come_as_everybody_writes_them(prompt: Any) -> None:
    assert messages_of(prompt) == CONVERSATION


def test_a_message_alone_is_a_conversation() -> None:
    assert messages_of({"role": "user", "content": "hi"}) == [("user", "hi")]
    assert messages_of(router_pb2.ChatMessage(role="user", content="hi")) == [("user", "hi")]


def test_parts_of_text_are_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages_of([{"role": "user", "content": parts}]) == [("user", "a\nb")]
    assert messages_of([{"role": "user", "content": ["a", "b"]}]) == [("user", "a\nb")]
    parts = [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}]
    assert messages_of([{"role": "user", "content": parts}]) == [("user", "a\nb")]


def test_what_an_assistant_refused_with_is_what_it_said() -> None:
    said = {"role": "assistant", "content": None, "refusal": "No."}
    assert messages_of([said]) == [("assistant", "No.")]
    assert messages_of([said | {"content": "Yes."}]) == [("assistant", "Yes.")]
    assert messages_of([said | {"refusal": None}]) == [("assistant", "")]
    assert messages_of([{"role": "assistant", "content": None}]) == [("assistant", "")]
    assert messages_of([{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]) == [
        ("assistant", "No.")
    ]


@pytest.mark.parametrize("calls", [{"id": "c"}, ["c"], "c", 5])
def test_calls_that_are_no_list_of_objects_are_told(calls: object) -> None:
    with pytest.raises(InvalidRequestError, match=r"chat.messages\[0\].tool_calls: must be a list of objects"):
        request_to_proto([{"role": "assistant", "content": "", "tool_calls": calls}])


def test_what_else_a_message_has_goes_to_the_template() -> None:
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    prompt: Any = [
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "3", "tool_call_id": "x"},
    ]
    assistant, tool = request_to_proto(prompt).chat.messages
    assert assistant.content == ""
    assert json.loads(assistant.attributes_json) == {"tool_calls": calls}
    assert json.loads(tool.attributes_json) == {"tool_call_id": "x"}


def test_what_the_template_gets_is_what_was_given() -> None:
    values: Any = {"z": [1, (2.5, None)], "b": {"": True, "é": {}}, "c": [], "d": 2**80, "a": 3.0}
    numbers: Any = {"f": np.float32(0.5), "g": np.int64(7), "h": np.bool_(True), "i": np.array([[1], [2]])}
    request = request_to_proto(CONVERSATION, chat_template_kwargs=values | numbers)
    assert request.chat.chat_template_kwargs_json == (
        '{"z":[1,[2.5,null]],"b":{"":true,"é":{}},"c":[],"d":1208925819614629174706176,"a":3.0,'
        '"f":0.5,"g":7,"h":true,"i":[[1],[2]]}'
    )


@pytest.mark.parametrize("nest", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_what_is_nested_too_deeply_is_told(nest: Callable[[Any], Any]) -> None:
    value: Any = "x"
    for _ in range(60):
        value = nest(value)
    request = request_to_proto([{"role": "user", "content": "", "x": value}])
    assert json.loads(request.chat.messages[0].attributes_json) == {"x": value}
    for _ in range(5000):
        value = nest(value)
    with pytest.raises(InvalidRequestError, match="nested too deeply"):
        request_to_proto([{"role": "user", "content": "", "x": value}])
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InvalidRequestError, match="holds itself"):
        request_to_proto(CONVERSATION, chat_template_kwargs={"a": cycle})


def test_how_the_template_is_used() -> None:
    request = request_to_proto(
        CONVERSATION, chat_template_kwargs={"enable_thinking": False}, continue_final_message=True
    )
    assert request.chat.chat_template_kwargs_json == '{"enable_thinking":false}'
    assert request.chat.continue_final_message
    assert not request.chat.HasField("add_generation_prompt")
    assert request_to_proto(CONVERSATION, add_generation_prompt=False).chat.HasField("add_generation_prompt")
    assert tokenize_request(CONVERSATION, {"continue_final_message": True}).chat.continue_final_message


def test_values_that_mean_off_or_default() -> None:
    params = dict.fromkeys(
        ["model", "max_tokens", "temperature", "top_k", "top_p", "min_p", "logit_bias", "seed", "min_tokens", "stop"]
    )
    request = request_to_proto("hi", **params, stop_token_ids=None, speculation=None, timeout_s=None)
    assert request == request_to_proto("hi")
    assert request_to_proto("hi", top_k=-1) == request_to_proto("hi", top_k=0)
    assert request_to_proto("hi", top_p=0).sampling.HasField("top_p")


def test_biases_may_have_jsons_keys() -> None:
    expected = {5: -100.0}
    assert dict(request_to_proto("hi", logit_bias={5: -100}).sampling.logit_bias) == expected
    assert dict(request_to_proto("hi", logit_bias={"5": -100}).sampling.logit_bias) == expected
    keys: Any = {np.int64(5): np.float32(-100)}
    assert dict(request_to_proto("hi", logit_bias=keys).sampling.logit_bias) == expected


LONE = "a\ud83d"
WRONG: list[tuple[Any, dict[str, Any], str]] = [
    # Halves of surrogate pairs, wherever a text goes in.
    (LONE, {}, "text"),
    ([("user", LONE)], {}, "chat.messages[0].content"),
    ([(LONE, "hi")], {}, "chat.messages[0].role"),
    ([{"role": "user", "content": [{"text": LONE}]}], {}, "chat.messages[0].content[0].text"),
    ([{"role": "user", "content": "", "name": LONE}], {}, "chat.messages[0].attributes.name"),
    (CONVERSATION, {"chat_template_kwargs": {"name": LONE}}, "chat.chat_template_kwargs.name"),
    (CONVERSATION, {"chat_template_kwargs": {LONE: 1}}, "chat.chat_template_kwargs"),
    ("hi", {"stop": ["ok", LONE]}, "stop[1]"),
    ("hi", {"stop": LONE}, "stop"),
    ("hi", {"model": LONE}, "model"),
    ("hi", {"speculation": SpeculationOptions(ssms=(LONE,))}, "speculation.ssms[0]"),
    # Prompts.
    (None, {}, "prompt"),
    (5, {}, "prompt"),
    (b"hi", {}, "prompt"),
    ({1, 2}, {}, "prompt"),
    ([1.5], {}, "token_ids.token_ids"),
    ([1, "a"], {}, "token_ids.token_ids"),
    ([True], {}, "token_ids.token_ids"),
    ([1, -1], {}, "token_ids.token_ids"),
    ([2**32], {}, "token_ids.token_ids"),
    (np.array([0.5, 1.0]), {}, "token_ids.token_ids"),
    (np.array(5), {}, "prompt"),
    (["hi"], {}, "chat.messages[0]"),
    (("user", "hi"), {}, "chat.messages[0]"),
    ([None], {}, "chat.messages[0]"),
    ([("user", "hi"), 5], {}, "chat.messages[1]"),
    ([("user", None)], {}, "chat.messages[0].content"),
    ([("user", 5)], {}, "chat.messages[0].content"),
    ([(5, "hi")], {}, "chat.messages[0].role"),
    ([{"content": "hi"}], {}, "chat.messages[0].role"),
    ([{"role": "user"}], {}, "chat.messages[0].content"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], {}, "chat.messages[0].content[0]"),
    ([{"role": "user", "content": ["hi", 5]}], {}, "chat.messages[0].content[1]"),
    ([{"role": "user", "content": "", "extra": object()}], {}, "chat.messages[0].attributes.extra"),
    ("hi", {"chat_template_kwargs": {"a": 1}}, "chat.chat_template_kwargs"),
    ([1], {"continue_final_message": True}, "chat.continue_final_message"),
    (CONVERSATION, {"chat_template_kwargs": "thinking"}, "chat.chat_template_kwargs"),
    (CONVERSATION, {"chat_template_kwargs": {"a": object()}}, "chat.chat_template_kwargs.a"),
    (CONVERSATION, {"chat_template_kwargs": {"a": [1, b"x"]}}, "chat.chat_template_kwargs.a[1]"),
    (CONVERSATION, {"chat_template_kwargs": {"a": {1}}}, "chat.chat_template_kwargs.a"),
    (CONVERSATION, {"chat_template_kwargs": {"a": {5: "b"}}}, "chat.chat_template_kwargs.a"),
    (CONVERSATION, {"chat_template_kwargs": {"a": math.nan}}, "chat.chat_template_kwargs.a"),
    (CONVERSATION, {"chat_template_kwargs": {"a": [-math.inf]}}, "chat.chat_template_kwargs.a[0]"),
    (CONVERSATION, {"chat_template_kwargs": {"a": 10**5000}}, "chat.chat_template_kwargs.a"),
    (CONVERSATION, {"add_generation_prompt": "maybe"}, "chat.add_generation_prompt"),
    # Parameters.
    ("hi", {"stop": 5}, "stop"),
    ("hi", {"stop": b"x"}, "stop"),
    ("hi", {"stop": [b"x"]}, "stop[0]"),
    ("hi", {"stop": {"a": "b"}}, "stop"),
    ("hi", {"stop_token_ids": "57"}, "sampling.stop_token_ids"),
    ("hi", {"stop_token_ids": 5.0}, "sampling.stop_token_ids"),
    ("hi", {"stop_token_ids": ["5"]}, "sampling.stop_token_ids"),
    ("hi", {"stop_token_ids": [-1]}, "sampling.stop_token_ids"),
    ("hi", {"logit_bias": [(1, 2.0)]}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {"x": 2.0}}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {1: "much"}}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {-1: 2.0}}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {5: 1.0, "5": 2.0}}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {"9" * 5000: 1.0}}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {1: 10**5000}}, "sampling.logit_bias"),
    ("hi", {"logit_bias": {1: True}}, "sampling.logit_bias"),
    ("hi", {"temperature": 10**5000}, "sampling.temperature"),
    ("hi", {"stop_token_ids": [10**5000]}, "sampling.stop_token_ids"),
    ("hi", {"max_tokens": 10**5000}, "max_tokens"),
    ("hi", {"top_k": -2}, "sampling.top_k"),
    ("hi", {"seed": -1}, "sampling.seed"),
    ("hi", {"seed": 2**64}, "sampling.seed"),
    ("hi", {"seed": 10**30}, "sampling.seed"),
    ("hi", {"min_tokens": -1}, "sampling.min_tokens"),
    ("hi", {"num_log_probs": "all"}, "sampling.num_log_probs"),
    ("hi", {"max_tokens": 1.5}, "max_tokens"),
    ("hi", {"max_tokens": True}, "max_tokens"),
    ("hi", {"temperature": True}, "sampling.temperature"),
    ("hi", {"max_tokens": "9"}, "max_tokens"),
    ("hi", {"ignore_eos": "yes"}, "ignore_eos"),
    ("hi", {"prompt_progress": "yes"}, "prompt_progress"),
    ("hi", {"model": 5}, "model"),
    ("hi", {"speculation": {"disabled": True}}, "speculation"),
    ("hi", {"speculation": SpeculationOptions(max_depth=-1)}, "speculation.max_depth"),
    ("hi", {"speculation": SpeculationOptions(beam_width=2**40)}, "speculation.beam_width"),
    ("hi", {"speculation": SpeculationOptions(disabled="no")}, "speculation.disabled"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("prompt", "params", "field"), WRONG, ids=[f"{i}-{row[2]}" for i, row in enumerate(WRONG)])
def test_what_has_no_clear_meaning_names_its_field(prompt: Any, params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        request_to_proto(prompt, **params)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", [LONE, [("user", LONE)]])
def test_tokenize_refuses_half_characters(text: Any) -> None:
    with pytest.raises(InvalidRequestError, match="half a surrogate pair at character 1"):
        tokenize_request(text, {})


@pytest.mark.parametrize("ids", [[LONE], ["1"], 5, "12", b"12", [2**32], [-1], [1.0]])
def test_detokenize_names_its_field(ids: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        detokenize_request(ids, False)
    assert caught.value.violations[0].field == "token_ids"


@pytest.mark.parametrize("seconds", [0, -1, math.nan, -math.inf, "soon", object(), 1j])
def test_times_that_are_none_are_refused(seconds: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        timeout_of(seconds)
    assert caught.value.violations[0].field == "timeout_s"


def test_times() -> None:
    assert timeout_of(None) is timeout_of(math.inf) is timeout_of(1e300) is None
    assert timeout_of(1.5) == timeout_of(np.float32(1.5)) == 1.5


@pytest.mark.parametrize(
    "values",
    [
        {"max_num_retries": -1}, {"max_num_retries": None}, {"max_num_retries": 1.5}, {"max_num_retries": True},
        {"first_delay_s": -0.1}, {"first_delay_s": "1"}, {"max_delay_s": float("nan")}, {"max_delay_s": 1e300},
    ],
)  # fmt: skip
def test_a_policy_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(values))} must be 0"):
        RetryPolicy(**values)
