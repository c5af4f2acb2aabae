"""``/v1/chat/completions`` with openai's client."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from openai import AsyncOpenAI, OpenAI

from router.http.asking import asked_tokenize
from router.http.bodies import TokenizeBody
from tests.router.http.asking import api_of, ask, http_address, http_suite, text_of
from tests.router.toy_language import EOS, speech
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite
from tests.waiting import LIMIT_S, until

MESSAGES: list[Any] = [{"role": "user", "content": "hi"}]
RENDERED = "[user]hi[assistant]"
BODY: dict[str, Any] = {"model": "toy", "messages": MESSAGES, "max_completion_tokens": 20, "seed": 0}
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]


async def test_a_conversation_is_answered_whole_and_in_chunks(api: AsyncOpenAI) -> None:
    whole = await api.chat.completions.create(**BODY)
    choice = whole.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", text_of(prompt=RENDERED))
    assert (choice.finish_reason, whole.object) == ("length", "chat.completion")
    chunks = [chunk async for chunk in await api.chat.completions.create(**BODY, stream=True)]
    assert (chunks[0].choices[0].delta.role, chunks[0].choices[0].delta.content) == ("assistant", "")
    assert not any(chunk.choices[0].delta.role for chunk in chunks[1:])
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(RENDERED), 20)


async def test_the_fingerprint_tells_what_decides_the_bits() -> None:
    """Quantised weights, and those in 16 bits, compute in the same type."""
    fingerprints = []
    for quantization in ("none", "int8", "int8"):
        llm = ToyLlm()
        llm.numerics = ["weights toy", f"quantization {quantization}"]
        async with http_suite(llm) as suite:
            fingerprints.append((await ask(suite, "/v1/chat/completions", BODY)).json["system_fingerprint"])
    plain, quantised, again = fingerprints
    assert plain != quantised == again
    assert plain.startswith("specgrove-")


async def test_the_model_has_the_names_that_it_is_given() -> None:
    async with http_suite(served_names=("mine", "also/mine")) as suite:
        for name in ("mine", "also/mine", None):
            reply = await ask(suite, "/v1/chat/completions", {**BODY, "model": name})
            assert (reply.status, reply.json["model"]) == (200, "mine")
        for name in ("mine", "also/mine"):
            assert (await ask(suite, f"/v1/models/{name}")).json["id"] == name
            assert (await ask(suite, "/tokenize", {"model": name, "prompt": "a"})).json["count"] == 1
        assert [model["id"] for model in (await ask(suite, "/v1/models")).json["data"]] == ["mine", "also/mine"]
        for path, body in (
            ("/v1/models/toy", None),
            ("/v1/chat/completions", BODY),
            ("/v1/completions", {"model": "toy", "prompt": "a"}),
            ("/tokenize", {"model": "toy", "prompt": "a"}),
        ):
            reply = await ask(suite, path, body)
            assert reply.status == 404
            assert "'toy' is not served here; this router serves 'mine' and 'also/mine'" in reply.error["message"]


async def test_the_synchronous_client_and_its_stream(suite: ToySuite) -> None:
    def talk() -> tuple[str | None, str]:
        with OpenAI(base_url=f"http://{http_address(suite)}/v1", api_key="none", timeout=LIMIT_S) as api:
            whole = api.chat.completions.create(**BODY)
            chunks = list(api.chat.completions.create(**BODY, stream=True))
        return whole.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in chunks)

    assert await asyncio.to_thread(talk) == (text_of(prompt=RENDERED),) * 2


async def test_several_answers_come_side_by_side(api: AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(**BODY, n=3)
    assert [choice.message.content for choice in answer.choices] == [
        text_of(seed, prompt=RENDERED) for seed in range(3)
    ]
    texts = [""] * 3
    async for chunk in await api.chat.completions.create(**BODY, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [choice.message.content for choice in answer.choices]


@pytest.mark.parametrize(
    ("messages", "more", "rendered"),
    [
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            {},
            "[user]a\nb[assistant]",
        ),
        ([{"role": "developer", "content": "x"}, *MESSAGES], {}, "[developer]x[user]hi[assistant]"),
        (
            [*MESSAGES, {"role": "assistant", "content": "Well"}],
            {"continue_final_message": True},
            "[user]hi[assistant]Well",
        ),
    ],
)
async def test_messages_reach_the_chat_template(
    api: AsyncOpenAI, messages: list[Any], more: dict[str, Any], rendered: str
) -> None:
    answer = await api.chat.completions.create(**BODY | {"messages": messages}, extra_body=more)
    assert answer.choices[0].message.content == text_of(prompt=rendered)


async def test_log_probabilities(api: AsyncOpenAI) -> None:
    choice = (await api.chat.completions.create(**BODY, logprobs=True, top_logprobs=1)).choices[0]
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert "".join(entry.token for entry in content) == choice.message.content
    assert all(entry.bytes == list(entry.token.encode()) and entry.logprob == -0.5 for entry in content)
    assert all([top.token for top in entry.top_logprobs] == [entry.token] for entry in content)
    chunks = [c async for c in await api.chat.completions.create(**BODY, logprobs=True, top_logprobs=1, stream=True)]
    streamed = [entry for c in chunks if (found := c.choices[0].logprobs) for entry in found.content or []]
    assert [entry.model_dump() for entry in streamed] == [entry.model_dump() for entry in content]
    own = (await api.chat.completions.create(**BODY, logprobs=True)).choices[0].logprobs
    assert own is not None
    assert not any(entry.top_logprobs for entry in own.content or [])


@pytest.mark.parametrize(
    ("tool_call_format", "content"),
    [
        ("auto", 'I look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'),
        ("mistral", 'I look.[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}}]'),
    ],
)
async def test_calls_of_tools_are_read(tool_call_format: str, content: str) -> None:
    async with (
        http_suite(ToyLlm(speech(content, RENDERED)), tool_call_format=tool_call_format) as suite,
        api_of(suite) as api,
    ):
        body, text = BODY | {"max_completion_tokens": 200}, re.split(r"[<[]", content)[0]
        choice = (await api.chat.completions.create(**body, tools=TOOLS)).choices[0]
        assert (choice.message.content, choice.finish_reason) == (text, "tool_calls")
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Köln"})
        deltas = [c.choices[0] async for c in await api.chat.completions.create(**body, tools=TOOLS, stream=True)]
        assert "".join(choice.delta.content or "" for choice in deltas) == text
        head, *pieces = [call for choice in deltas for call in choice.delta.tool_calls or []]
        assert head.function is not None
        assert (head.index, head.type, head.function.name, head.function.arguments) == (0, "function", "weather", "")
        assert head.id
        assert len(pieces) > 3
        assert {(piece.index, piece.id, piece.type) for piece in pieces} == {(0, None, None)}
        arguments = [piece.function.arguments or "" for piece in pieces if piece.function is not None]
        assert "".join(arguments) == call.function.arguments
        assert deltas[-1].finish_reason == "tool_calls"
        # Who shows no tools gets what the model wrote.
        for none in ({}, {"tools": TOOLS, "tool_choice": "none"}):
            plain = (await api.chat.completions.create(**body | none)).choices[0]
            assert (plain.message.content, plain.finish_reason) == (content, "stop")


async def test_chunks_tell_what_their_output_has_taken_so_far(api: AsyncOpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    stream = await api.chat.completions.create(**BODY, stream=True, stream_options=options)
    first, *chunks, last = [chunk async for chunk in stream]
    assert (first.choices[0].delta.role, first.usage) == ("assistant", None)  # nothing is known yet
    assert last.usage is not None
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert len(usages) == len(chunks) > 2
    assert {usage.prompt_tokens for usage in usages} == {last.usage.prompt_tokens}
    counts = [usage.completion_tokens for usage in usages]
    assert counts == sorted(counts)
    assert counts[-1] == last.usage.completion_tokens


async def test_openais_helper_of_streams_follows_two_calls_and_one_that_is_cut_off() -> None:
    calls = [
        f'<tool_call>{{"name": "weather", "arguments": {{"city": "{city}"}}}}</tool_call>' for city in ("Rome", "Bonn")
    ]
    content = "\n".join(calls)
    async with http_suite(ToyLlm(speech(content, RENDERED))) as suite, api_of(suite) as api:
        asked = {"model": "toy", "messages": MESSAGES, "temperature": 0, "tools": TOOLS}
        async with api.chat.completions.stream(**asked, max_completion_tokens=300) as stream:
            events: list[Any] = [event async for event in stream]
        done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
        assert [(event.index, event.arguments) for event in done] == [(0, '{"city": "Rome"}'), (1, '{"city": "Bonn"}')]
        deltas = [event.arguments for event in events if event.type == "tool_calls.function.arguments.delta"]
        assert deltas[-1] == '{"city": "Bonn"}'
        assert len(deltas) > 8
        cut = await api.chat.completions.create(**asked, max_completion_tokens=content.index("ome"))
        (call,) = cut.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert (cut.choices[0].finish_reason, call.function.arguments) == ("length", '{"city": "R')


async def test_tools_and_template_variables_reach_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ tools[0].function.name }} {{ shout }} {{ messages[-1].tool_call_id }}"
    monkeypatch.setattr("tests.router.toy_services.CHAT_TEMPLATE", template)
    messages = [*MESSAGES, {"role": "tool", "content": "sunny", "tool_call_id": "c1"}]
    async with http_suite() as suite, api_of(suite) as api:
        body = BODY | {"messages": messages, "tools": TOOLS, "extra_body": {"chat_template_kwargs": {"shout": "hey"}}}
        answer = await api.chat.completions.create(**body)
    assert answer.choices[0].message.content == text_of(prompt="weather hey c1")


async def test_template_variables_that_are_none_are_named_as_sent(suite: ToySuite) -> None:
    wrong: dict[str, Any] = {"messages": "is set by a field of its own"}
    reply = await ask(suite, "/v1/chat/completions", BODY | {"chat_template_kwargs": wrong})
    assert (reply.status, reply.error["param"]) == (400, "chat_template_kwargs")


async def test_the_older_name_of_the_limit_is_taken(api: AsyncOpenAI) -> None:
    answer = await api.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=5, seed=0)
    assert answer.choices[0].message.content == text_of(prompt=RENDERED, num_tokens=5)


async def test_tokenize_and_detokenize_as_in_vllm(suite: ToySuite) -> None:
    asked = {"messages": MESSAGES, "return_token_strs": True}
    tokens = (await ask(suite, "/tokenize", asked)).json
    assert bytes(tokens["tokens"]).decode() == RENDERED
    assert (tokens["count"], tokens["max_model_len"], tokens["token_strs"]) == (len(RENDERED), 512, list(RENDERED))
    assert (await ask(suite, "/detokenize", {"tokens": [104, 105, EOS]})).json == {"prompt": "hi<eos>"}


async def test_tools_count_where_tokens_are_counted(suite: ToySuite) -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    asked = asked_tokenize(TokenizeBody(messages=MESSAGES, tools=tools))[0]
    assert json.loads(asked.chat.chat_template_kwargs_json) == {"tools": tools}
    assert (await ask(suite, "/tokenize", {"messages": MESSAGES, "tools": []})).json["count"] == len(RENDERED)
    wrong = await ask(suite, "/tokenize", {"messages": MESSAGES, "tools": [5]})
    assert (wrong.status, wrong.error["param"]) == (400, "tools")


async def test_models_health_and_version(suite: ToySuite, api: AsyncOpenAI) -> None:
    (model,) = (await api.models.list()).data
    assert (model.id, model.max_model_len) == ("toy", 512)  # type: ignore[attr-defined]
    assert (await api.models.retrieve("toy")).id == "toy"
    assert (await ask(suite, "/version")).json["version"]
    await until(lambda: suite.app.server.health.is_serving)
    assert (await ask(suite, "/health")).json == {"status": "serving"}
    await suite.llm_server.stop(0)
    await until(lambda: not suite.app.server.health.is_serving)
    reply = await ask(suite, "/health")
    assert (reply.status, reply.json) == (503, {"status": "not serving"})
