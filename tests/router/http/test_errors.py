"""What is wrong is told in OpenAI's form, with the client's own names, and with statuses that its clients understand."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from router.http.refused import REFUSED
from tests.router.http.asking import api_of, ask, http_address, http_suite
from tests.router.toy_suite import ToySuite
from tests.waiting import LIMIT_S

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
# Most of these share a suite, which they don't change.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite() -> AsyncIterator[ToySuite]:
    async with http_suite() as suite:
        yield suite


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        (COMPLETIONS, {}, "prompt", "prompt: is missing"),
        (COMPLETIONS, {"prompt": ""}, "prompt", "is empty"),
        (COMPLETIONS, {"prompt": []}, "prompt", "is empty"),
        (COMPLETIONS, {"prompt": 5}, "prompt", "must be a text, token ids, or a list"),
        (COMPLETIONS, {"prompt": ["a", ""]}, "prompt[1]", "is empty"),
        (COMPLETIONS, {"prompt": [5, "a"]}, "prompt", "element 1 must be a token id, got the text 'a'"),
        (COMPLETIONS, {"prompt": [[5], [True]]}, "prompt[1]", "element 0 must be a token id, got True"),
        (COMPLETIONS, {"prompt": [[5], [[5]]]}, "prompt[1]", "must be a text or token ids"),
        (COMPLETIONS, {"prompt": [999]}, "prompt", "token id 999 is out of range"),
        (COMPLETIONS, {"prompt": ["a"] * 65, "n": 2}, "prompt", "65 prompts with n 2 are 130 outputs; at most 128"),
        (COMPLETIONS, {"prompt": "x" * 600}, "prompt", "has 600 tokens; at most 512 fit"),
        (COMPLETIONS, {"prompt": "x", "n": 0}, "n", "must be greater than or equal to 1, got 0"),
        (COMPLETIONS, {"prompt": "x", "n": 129}, "n", "must be less than or equal to 128"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 0}, "max_tokens", "must be at least 1; 0 is for requests with echo"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": -1}, "max_tokens", "must be greater than or equal to 0"),
        (COMPLETIONS, {"prompt": "x", "max_tokens": 600}, "max_tokens", "must be at most 511"),
        (COMPLETIONS, {"prompt": "x", "temperature": "hot"}, "temperature", 'must be a valid number, got "hot"'),
        (COMPLETIONS, {"prompt": "x", "temperature": 101}, "temperature", "must be in [0, 100], got 101"),
        (COMPLETIONS, {"prompt": "x", "temprature": 1}, "temprature", "is no field of this endpoint; is temperature meant?"),
        (COMPLETIONS, {"prompt": "x", "logprobs": 21}, "logprobs", "must be at most 20, got 21"),
        (COMPLETIONS, {"prompt": "x", "logprobs": 21, "echo": True}, "logprobs", "must be at most 20, got 21"),
        (COMPLETIONS, {"prompt": "x", "prompt_logprobs": 21}, "prompt_logprobs", "must be at most 20, got 21"),
        (COMPLETIONS, {"prompt": "x", "prompt_logprobs": -1}, "prompt_logprobs", "must be greater than or equal to 0"),
        (COMPLETIONS, {"prompt": "x", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "is not for streams"),
        (
            COMPLETIONS,
            {"prompt": "x", "prompt_logprobs": 1, "echo": True, "logprobs": 2},
            "prompt_logprobs",
            "is 1, and logprobs with echo is 2",
        ),
        (
            COMPLETIONS,
            {"prompt": "x", "prompt_logprobs": 1, "max_tokens": 0, "min_tokens": 1},
            "min_tokens",
            "must be left out with prompt_only",
        ),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 0}, "max_completion_tokens", "must be at least 1"),
        (COMPLETIONS, {"prompt": "x", "suffix": "y"}, "suffix", "there is no text after the output"),
        (COMPLETIONS, {"prompt": "x", "best_of": 3}, "best_of", "ask for n outputs, and choose"),
        (COMPLETIONS, {"prompt": "x", "stop": ""}, "stop", "must have 1 to 256 characters"),
        (COMPLETIONS, {"prompt": "x", "stop": ["a", ""]}, "stop[1]", "must have 1 to 256 characters"),
        (COMPLETIONS, {"prompt": "x", "stop": 5}, "stop", "must be a text or several"),
        (COMPLETIONS, {"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias", "a key must be a token id"),
        (COMPLETIONS, {"prompt": "x", "stop_token_ids": [-1]}, "stop_token_ids", "must be a token id"),
        (COMPLETIONS, {"prompt": "x", "top_k": -2}, "top_k", "must be greater than or equal to -1"),
        (COMPLETIONS, {"prompt": "x", "stream_options": {"usage": 1}}, "stream_options.usage", "is no field"),
        (COMPLETIONS, {"prompt": "x", "speculation": {"ssms": ["no"]}}, "speculation.ssms", "unknown SSM 'no'"),
        (CHAT, {"messages": []}, "messages", "is empty"),
        (CHAT, {"messages": ["hi"]}, "messages", "must be a list of messages"),
        (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role", "is missing"),
        (CHAT, {"messages": [{"role": "a b", "content": "x"}]}, "messages[0].role", "must be 1 to 64 letters"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
            "must be a part of text",
        ),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 600}, "max_completion_tokens", "must be at most"),
        (CHAT, {"messages": MESSAGES, "max_tokens": 600}, "max_tokens", "must be at most"),
        (CHAT, {"messages": MESSAGES, "max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "give one of them"),
        (CHAT, {"messages": MESSAGES, "top_logprobs": 2}, "top_logprobs", "needs logprobs: true"),
        (CHAT, {"messages": MESSAGES, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "must be at most 20"),
        (CHAT, {"messages": MESSAGES, "tool_choice": "required"}, "tool_choice", "is for requests with tools"),
        (CHAT, {"messages": MESSAGES, "tools": [WEATHER], "tool_choice": "any"}, "tool_choice", 'must be "none", "auto"'),
        (CHAT, {"messages": MESSAGES, "tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "no"}}},
            "tool_choice.function.name", "there is no tool 'no'"),
        (CHAT, {"messages": MESSAGES, "tools": [{"function": {}}], "tool_choice": "required"}, "tools[0].function.name", "text"),
        (CHAT, {"messages": MESSAGES, "tools": [{"function": {"name": "f", "parameters": {"type": "objekt"}}}],
            "tool_choice": "required"}, "tools", "Invalid type: objekt"),
        (CHAT, {"messages": MESSAGES, "tools": [WEATHER], "guided_regex": "a"}, "guided_regex", "can't be sent with tools"),
        (CHAT, {"messages": MESSAGES, "tools": [5]}, "tools", "must be a list of objects"),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "xml"}}, "response_format", 'must be {"type": "text"}'),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_schema"}}, "response_format", "must be"),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": {"shema": {}}}},
            "response_format.json_schema.shema", "there are name, description, schema, strict"),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}},
            "response_format", "Invalid type: objekt"),
        (CHAT, {"messages": MESSAGES, "response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format", "must be a mapping"),
        (COMPLETIONS, {"prompt": "x", "structured_outputs": {"regex": "(a"}}, "structured_outputs.regex", "unclosed group"),
        (COMPLETIONS, {"prompt": "x", "structured_outputs": {"xml": "a"}}, "structured_outputs.xml", "is not supported; there are"),
        (CHAT, {"messages": MESSAGES, "structured_outputs": {"xml": "a"}}, "structured_outputs.xml", "structured_outputs.xml: is not"),
        (CHAT, {"messages": MESSAGES, "structured_outputs": {"regex": "a", "grammar": "start: /a/"}},
            "structured_outputs.regex", "give one of structured_outputs.regex and structured_outputs.grammar"),
        (COMPLETIONS, {"prompt": "x", "structured_outputs": {"\ud800": 1}}, "structured_outputs.\\ud800", "is not supported"),
        (COMPLETIONS, {"prompt": "x", "guided_regex": "a", "guided_choice": ["a"]}, "guided_regex", "give one of guided_regex and"),
        (COMPLETIONS, {"prompt": "x", "guided_choice": ["a"] * 1025}, "guided_choice", "has 1025 texts; at most 1024"),
        (COMPLETIONS, {"prompt": "x", "guided_json": "{"}, "guided_json", "is no JSON"),
        (COMPLETIONS, {"prompt": "x", "guided_grammar": "start: x"}, "guided_grammar", "unknown name"),
        (COMPLETIONS, {"prompt": "x", "guided_regex": "a", "ignore_eos": True}, "ignore_eos", "must be false"),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "xml"}}}, "text.format", "must be"),
        ("/v1/responses", {"input": "x", "tools": [WEATHER]}, "tools[0].name", "is missing"),
        ("/v1/responses", {"input": "x", "text": {"form": 1}}, "text", "must be an object with format"),
        ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "schema": {"type": "objekt"}}}},
            "text.format", "Invalid type: objekt"),
        (CHAT, {"messages": MESSAGES * 4097}, "messages", "has 4097 messages; at most 4096"),
        ("/tokenize", {}, "prompt", "give either prompt or messages"),
        ("/tokenize", {"messages": [{"role": 5, "content": "x"}]}, "messages[0].role", "must be a text"),
        ("/detokenize", {"tokens": [999]}, "tokens", "token id 999 is out of range"),
        ("/detokenize", {"tokens": ["a"]}, "tokens", "must be a token id"),
    ],
)  # fmt: skip
async def test_wrong_requests_name_the_clients_field(
    suite: ToySuite, path: str, body: Any, param: str, message: str
) -> None:
    reply = await ask(suite, path, body)
    assert reply.status == 400, reply
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["param"] == param
    assert message in reply.error["message"]


async def test_all_that_is_wrong_is_told_at_once(suite: ToySuite) -> None:
    reply = await ask(suite, COMPLETIONS, {"prompt": "x", "temperature": 101, "top_p": 2, "stop": [""]})
    assert reply.error["message"].count(";") == 2


@pytest.mark.parametrize("name", REFUSED)
async def test_fields_that_are_not_there_are_refused_with_a_reason(suite: ToySuite, name: str) -> None:
    usual, reason = REFUSED[name]
    body = {"messages": MESSAGES, "max_tokens": 1}
    refused = await ask(suite, CHAT, body | {name: {"x": 1}})
    assert (refused.status, refused.error["param"]) == (400, name)
    assert reason in refused.error["message"]
    for value in (None, *usual):
        assert (await ask(suite, CHAT, body | {name: value})).status == 200


async def test_what_changes_no_output_is_ignored(suite: ToySuite) -> None:
    ignored = {
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
    }
    assert (await ask(suite, CHAT, {"messages": MESSAGES, "max_tokens": 1, **ignored})).status == 200


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b'{"prompt"', {}, 400, "the body is no JSON"),
        (b"[1]", {}, 400, "must be a JSON object"),
        (b"[" * 100_000, {}, 400, "the body is nested too deeply"),
        (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", {}, 400, "the body holds a number of too many digits"),
        (b'{"prompt": "x", "temperature": NaN}', {}, 400, "must be in [0, 100], got nan"),
        (b'{"prompt": "\\ud800"}', {}, 400, "half a surrogate pair"),
        (b'{"prompt": "x"}', {"content-type": "text/plain"}, 400, "Content-Type: application/json"),
        (b'{"prompt": "\xff"}', {}, 400, "the body must be JSON in UTF-8; byte 12 belongs to no character"),
        (
            gzip.compress(b'{"prompt": "x"}', mtime=0),
            {"content-encoding": "gzip"},
            415,
            "Content-Encoding gzip is not supported",
        ),
        (b'{"prompt": "x", "\\ud800": 1}', {}, 400, "request: must be a valid string"),
        (
            json.dumps({"prompt": "x", **{f"a{i}": 1 for i in range(300)}}).encode(),
            {},
            400,
            "has 301 fields; at most 256",
        ),
        (b"x" * 2_000_000, {}, 413, "at most 1048576 bytes"),
    ],
)
async def test_bodies_that_are_none(
    suite: ToySuite, content: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    reply = await ask(suite, COMPLETIONS, content, headers=headers)
    assert reply.status == status
    assert message in reply.error["message"]


async def test_a_coding_that_is_none_is_left_aside(suite: ToySuite) -> None:
    """Some clients mean the character set by it, and some send the header with requests that have no body."""
    assert (await ask(suite, COMPLETIONS, {"prompt": "x"}, headers={"content-encoding": "UTF-8"})).status == 200
    assert (await ask(suite, "/health", headers={"content-encoding": "gzip"})).status == 200


async def test_a_body_without_a_length_is_counted(suite: ToySuite) -> None:
    body = b'{"prompt": "' + b"x" * 2_000_000 + b'"}'
    host, port = http_address(suite).split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head + b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        assert b" 413 " in await reader.readline()
    writer.close()


async def test_a_client_that_asks_first_need_not_send_what_is_too_much(suite: ToySuite) -> None:
    """As curl does from 1 MiB on: it was told to go on, and refused when all had come."""
    host, port = http_address(suite).split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2000000\r\n"
    writer.write(head + b"expect: 100-Continue\r\n\r\n")
    async with asyncio.timeout(LIMIT_S):
        assert b" 413 " in (await reader.read()).partition(b"\r\n")[0]
    writer.close()


async def test_unknown_paths_methods_and_models(suite: ToySuite) -> None:
    assert (await ask(suite, "/nope")).error["code"] == "not_found"
    said = (await ask(suite, "/v1/embeddings", {"input": "x"})).error["message"]
    assert said.startswith("POST /v1/embeddings: there is no such endpoint; there are /detokenize, /docs, /generate, ")
    for path in ("/chat/completions", "/v1/v1/chat/completions/"):  # a base URL without its /v1, or with two of them
        message = (await ask(suite, path, {})).error["message"]
        assert "no such endpoint; is /v1/chat/completions meant? Look at the client's base URL" in message
    assert (await ask(suite, COMPLETIONS)).status == 405
    reply = await ask(suite, COMPLETIONS, {"prompt": "x", "model": "gpt-5"})
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert "this router serves 'toy'" in reply.error["message"]
    assert (await ask(suite, "/v1/models/owner/name")).status == 404
    assert (await ask(suite, "/tokenize", {"prompt": "x", "model": "gpt-5"})).status == 404


async def test_keys_are_asked_for() -> None:
    async with http_suite(keys=("right", "other")) as suite:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}):
            reply = await ask(suite, "/v1/models", headers=headers)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
        assert (await ask(suite, "/health")).status != 401
        async with api_of(suite, "right") as api:
            assert (await api.models.list()).data
        async with api_of(suite, "wrong") as api:
            with pytest.raises(openai.AuthenticationError):
                await api.models.list()


async def test_browsers_may_ask_from_allowed_pages_only() -> None:
    async with http_suite(keys=("k",), origins=("https://a.example",)) as suite:
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        for origin, status in (("https://a.example", 200), ("https://b.example", 400)):
            reply = await ask(suite, CHAT, method="OPTIONS", headers={"origin": origin, **asked})
            assert reply.status == status
            assert reply.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
        # Chrome asks so where the router is in the network that the browser is in.
        private = {"origin": "https://a.example", "access-control-request-private-network": "true", **asked}
        reply = await ask(suite, CHAT, method="OPTIONS", headers=private)
        assert (reply.status, reply.headers["access-control-allow-private-network"]) == (200, "true")
