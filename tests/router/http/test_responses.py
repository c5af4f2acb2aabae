"""``/v1/responses`` with openai's client, and ``/generate/`` of FlexFlow Serve."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from tests.router.http.asking import api_of, ask, http_suite, text_of
from tests.router.toy_language import speech
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite

RENDERED = "[user]hi[assistant]"
BODY: dict[str, Any] = {"model": "toy", "input": "hi", "max_output_tokens": 20, "extra_body": {"seed": 0}}
TOOLS: list[Any] = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}]
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'


def speaking(content: str, prompt: str = RENDERED) -> ToyLlm:
    """A model that answers so."""
    return ToyLlm(speech(content, prompt))


async def test_an_answer_is_told_whole_and_in_events(api: AsyncOpenAI) -> None:
    whole = await api.responses.create(**BODY)
    assert whole.output_text == text_of(prompt=RENDERED)
    assert (whole.object, whole.status, whole.model) == ("response", "incomplete", "toy")
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert (whole.usage.input_tokens, whole.usage.output_tokens, whole.usage.total_tokens) == (len(RENDERED), 20, 39)
    events = [event async for event in await api.responses.create(**BODY, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.delta", "response.output_text.done", "response.content_part.done",
        "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last: Any = events[-1]
    same = {"id", "created_at", "output", "temperature"}
    assert last.response.model_dump(exclude=same) == whole.model_dump(exclude=same)
    assert last.response.output_text == whole.output_text


async def test_openais_helper_of_streams_understands_the_events() -> None:
    body = BODY | {"max_output_tokens": 200, "tools": TOOLS}
    async with (
        http_suite(speaking("I look. " + CALL)) as suite,
        api_of(suite) as api,
        api.responses.stream(**body) as stream,
    ):
        events = [event async for event in stream]
        final = await stream.get_final_response()
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == final.output_text == "I look. "
    snapshots = [event.snapshot for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(snapshots) > 3
    assert snapshots[-1] == '{"city": "Köln"}'
    call: Any = final.output[1]
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Köln"})


@pytest.mark.parametrize("lead", ["", "I look.\n"])
async def test_calls_of_tools_are_items(lead: str) -> None:
    async with http_suite(speaking(lead + CALL)) as suite, api_of(suite) as api:
        body = BODY | {"max_output_tokens": 200, "tools": TOOLS}
        whole = await api.responses.create(**body)
        assert whole.status == "completed"
        assert [item.type for item in whole.output] == ["message", "function_call"][1 - bool(lead) :]
        assert whole.output_text == lead
        call: Any = whole.output[-1]
        assert (call.name, json.loads(call.arguments), call.status) == ("weather", {"city": "Köln"}, "completed")
        events: list[Any] = [event async for event in await api.responses.create(**body, stream=True)]
        (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == done.arguments == call.arguments
        assert events[-1].type == "response.completed"
        added = [event.output_index for event in events if event.type == "response.output_item.added"]
        assert added == [event.output_index for event in events if event.type == "response.output_item.done"]
        assert added == list(range(len(whole.output)))
        # Shown no tools, the model's words are text.
        plain = await api.responses.create(**body | {"tool_choice": "none"})
        assert plain.output_text == lead + CALL


async def test_a_call_that_is_cut_off_is_incomplete() -> None:
    async with http_suite(speaking(CALL)) as suite, api_of(suite) as api:
        body = BODY | {"max_output_tokens": CALL.index("öln"), "tools": TOOLS}
        whole = await api.responses.create(**body)
        (call,) = whole.output
        assert call.type == "function_call"
        assert (whole.status, call.status, call.arguments) == ("incomplete", "incomplete", '{"city": "K')
        # openai's helper knows no answers that are incomplete.
        last: Any = [event async for event in await api.responses.create(**body, stream=True)][-1]
        assert last.type == "response.incomplete"
        (told,) = last.response.output
        assert told.model_dump(exclude={"id", "call_id"}) == call.model_dump(exclude={"id", "call_id"})


async def test_an_answer_that_says_nothing_is_an_empty_message() -> None:
    async with http_suite(speaking("")) as suite, api_of(suite) as api:
        whole = await api.responses.create(**BODY)
        assert ([item.type for item in whole.output], whole.output_text) == (["message"], "")


async def test_items_become_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
        "{% for c in m.tool_calls %}<{{ c.id }} {{ c.function.name }} {{ c.function.arguments.city }}>{% endfor %}"
        "{{ m.tool_call_id }}{% endfor %}{{ tools[0].function.name }}"
    )
    monkeypatch.setattr("tests.router.toy_services.CHAT_TEMPLATE", template)
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Rome"}'}
    items: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Well", "annotations": []}],
        },
        call,
        call | {"call_id": "c2"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    async with http_suite() as suite, api_of(suite) as api:
        answer = await api.responses.create(**BODY | {"input": items, "instructions": "Be brief.", "tools": TOOLS})
    prompt = "[system]Be brief.[user]a\nb[assistant]Well<c1 weather Rome><c2 weather Rome>[tool]sunnyc1weather"
    assert answer.output_text == text_of(prompt=prompt)
    assert answer.instructions == "Be brief."


async def test_what_was_answered_can_be_sent_back(api: AsyncOpenAI) -> None:
    first = await api.responses.create(**BODY)
    items: list[Any] = [{"role": "user", "content": "hi"}, *first.output, {"role": "user", "content": "more"}]
    second = await api.responses.create(**BODY | {"input": items})
    assert second.output_text == text_of(prompt=f"[user]hi[assistant]{first.output_text}[user]more[assistant]")


@pytest.mark.parametrize(
    ("wrong", "param", "message"),
    [
        ({"input": []}, "input", "must be a text or a list of items"),
        ({"input": ["hi"]}, "input[0]", "must be an object"),
        ({"input": [{"role": "a b", "content": "x"}], "instructions": "y"}, "input[0].role", "must be 1 to 64 letters"),
        ({"input": [{"content": "x"}]}, "input[0].role", "is missing"),
        ({"input": [{"role": "user"}]}, "input[0].content", "is missing"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]", "a part of text"),
        ({"input": [{"type": "item_reference", "id": "r"}]}, "input[0].type", "must be message, function_call,"),
        ({"input": [{"type": "reasoning", "id": "r", "summary": []}]}, "input", "holds no message"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary", "must be a list of parts with text"),
        ({"include": ["message.output_text.logprobs"]}, "include", "ask /v1/chat/completions for log-probabilities"),
        ({"reasoning": {"effort": "low", "summary": "auto"}}, "reasoning", "chat_template_kwargs"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "chat_template_kwargs"),
        ({"text": {"verbosity": ""}}, "text.verbosity", "chat_template_kwargs"),
        ({"text": {"verbosity": 0}}, "text.verbosity", "chat_template_kwargs"),
        ({"text": {"style": "x"}}, "text", "must be an object with format and verbosity, and nothing else"),
        ({"messages": []}, "messages", "is no field of this endpoint; is input meant?"),
        ({"response_format": {}}, "response_format", "is text meant?"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id", "is missing"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", "must be a function"),
        ({"max_output_tokens": 600}, "max_output_tokens", "must be at most"),
        ({"temperature": 101}, "temperature", "must be in [0, 100]"),
        ({"stop": ""}, "stop", "must have 1 to 256 characters"),
        ({"store": True}, "store", "must be false: nothing is kept"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation as input"),
        ({"text": {"format": {"type": "json"}}}, "text.format", "must be"),
        ({"max_tokens": 5}, "max_tokens", "is no field of this endpoint; is max_output_tokens meant?"),
    ],
)  # fmt: skip
async def test_wrong_requests_name_the_clients_field(suite: ToySuite, wrong: Any, param: str, message: str) -> None:
    reply = await ask(suite, "/v1/responses", {"input": "hi"} | wrong)
    assert (reply.status, reply.error["param"]) == (400, param)
    assert message in reply.error["message"]


async def test_the_fields_that_are_sent_to_vllm(suite: ToySuite) -> None:
    expected = text_of(num_tokens=30, prompt=RENDERED)
    body = {"input": "hi", "seed": 0, "ignore_eos": True, "stop": expected[5:7], "include_stop_str_in_output": True}
    answer = (await ask(suite, "/v1/responses", body)).json
    assert answer["output"][0]["content"][0]["text"] == expected[:7]


async def test_what_is_null_counts_as_left_out(suite: ToySuite) -> None:
    items = [{"type": None, "role": "user", "content": "hi", "status": None}]
    nulls = {"text": {"format": None, "verbosity": None}, "instructions": None, "tools": None, "metadata": None}
    plain, answer = [
        (await ask(suite, "/v1/responses", {"input": "hi", "seed": 0, "max_output_tokens": 5} | more)).json
        for more in ({}, nulls | {"input": items})
    ]
    assert answer["output"][0]["content"] == plain["output"][0]["content"]
    assert {name: answer[name] for name in nulls} == {name: plain[name] for name in nulls}
    assert answer["text"] == {"format": {"type": "text"}}


@pytest.mark.parametrize(
    "nothing",
    [
        {"include": ["reasoning.encrypted_content", "web_search_call.action.sources"]},
        {"reasoning": {"summary": "auto", "effort": None}},
        {"text": {"verbosity": "medium"}},
    ],
)
async def test_what_agents_send_always_asks_for_nothing(suite: ToySuite, nothing: dict[str, object]) -> None:
    plain, answer = [
        (await ask(suite, "/v1/responses", {"input": "hi", "seed": 0, "max_output_tokens": 5} | more)).json
        for more in ({}, nothing)
    ]
    assert answer["output"][0]["content"] == plain["output"][0]["content"]


async def test_what_was_thought_goes_to_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of other models, too: conversations are sent on."""
    template = "{% for m in messages %}[{{ m.role }}{{ m.reasoning_content }}]{{ m.content }}{% if m.tool_calls %}!{% endif %}{% endfor %}"
    monkeypatch.setattr("tests.router.toy_services.CHAT_TEMPLATE", template)
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"}
    thought = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": None}
    items: list[Any] = [
        {"role": "user", "content": "a"},
        thought | {"content": [{"type": "reasoning_text", "text": "Hm,"}]},
        thought | {"content": [{"type": "reasoning_text", "text": "hm."}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        thought | {"summary": [{"type": "summary_text", "text": "Well."}]},
        call,
        thought,
        {"role": "assistant", "content": None},
        {"role": "user", "content": "b"},
    ]
    async with http_suite() as suite, api_of(suite) as api:
        answer = await api.responses.create(**BODY | {"input": items})
    assert answer.output_text == text_of(prompt="[user]a[assistantHm,\nhm.\nWell.]No.![assistant][user]b")


async def test_a_wrong_model_is_told_before_a_stream(api: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this router serves 'toy'"):
        await api.responses.create(model="gpt-5", input="hi", stream=True)


@pytest.mark.parametrize("path", ["/generate/", "/generate"])
async def test_generate_as_flexflows_entry_point_answers(path: str) -> None:
    async with http_suite(speaking(", world", "Hello")) as suite:
        reply = await ask(suite, path, {"prompt": "Hello"})
        assert (reply.status, reply.json) == (200, {"prompt": "Hello", "response": ", world"})
        assert (await ask(suite, path, {"prompt": "Hello", "max_new_tokens": 3})).json["response"] == ", w"
        wrong = await ask(suite, path, {"prompt": "x" * 500})
        assert (wrong.status, wrong.error["param"]) == (400, "max_new_tokens")
        assert (await ask(suite, path, {"prompts": "x"})).error["param"] == "prompt"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"metadata": 5}, "metadata"),
        ({"metadata": {"a": "\ud800"}}, "metadata.a"),
        ({"text": {"format": {"type": "json_schema", "name": float("nan"), "schema": {}}}}, "text.format.name"),
        ({"tools": [{"type": "function", "name": "f", "x": float("inf")}], "tool_choice": "none"}, "tools[0].x"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "name": "weather", "x": "\ud800"}}, "tool_choice.x"),
    ],
)
async def test_what_no_answer_could_repeat_is_refused(suite: ToySuite, wrong: dict[str, Any], param: str) -> None:
    reply = await ask(suite, "/v1/responses", {"input": "hi", "max_output_tokens": 2} | wrong)
    assert (reply.status, reply.error["param"]) == (400, param)
