"""Log-probabilities of prompts by HTTP: OpenAI's echo with logprobs, as lm-eval asks for them, and vLLM's prompt_logprobs."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.router.http.asking import PROMPT, ask, text_of
from tests.router.toy_services import toy_log_probs
from tests.router.toy_suite import ToySuite

BODY: dict[str, Any] = {"model": "toy", "prompt": PROMPT, "max_tokens": 5, "seed": 0}
CHAT: dict[str, Any] = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "seed": 0}
IDS = list(PROMPT.encode())
NAMES = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def expected_lists(num_top: int) -> dict[str, list[Any]]:
    """Of the prompt's tokens."""
    found = [toy_log_probs(IDS[: place + 1], num_top) for place in range(1, len(IDS))]
    top = [
        {chr(token_id): value for token_id, value in entry.top} | ({PROMPT[place]: entry.log_prob} if num_top else {})
        for place, entry in enumerate(found, 1)
    ]
    return {
        "tokens": list(PROMPT),
        "token_logprobs": [None, *(entry.log_prob for entry in found)],
        "top_logprobs": [None, *top],
        "text_offset": list(range(len(PROMPT))),
    }


@pytest.mark.parametrize("prompt", [PROMPT, IDS])
@pytest.mark.parametrize("num_top", [0, 2])
async def test_an_echo_has_log_probabilities_too(api: AsyncOpenAI, prompt: Any, num_top: int) -> None:
    choice = (await api.completions.create(**BODY | {"prompt": prompt}, echo=True, logprobs=num_top)).choices[0]
    assert choice.text == PROMPT + text_of(num_tokens=5)
    assert choice.logprobs is not None
    for name, wanted in expected_lists(num_top).items():
        found = getattr(choice.logprobs, name)
        assert found[: len(PROMPT)] == wanted, name
        assert len(found) == len(PROMPT) + 5
    assert "".join(choice.logprobs.tokens or []) == choice.text
    assert (choice.logprobs.text_offset or [])[len(PROMPT) :] == list(range(len(PROMPT), len(PROMPT) + 5))


async def test_a_stream_has_the_same(suite: ToySuite, api: AsyncOpenAI) -> None:
    suite.llm.chunk_len = 4
    asked = BODY | {"echo": True, "logprobs": 1, "n": 2}
    whole = await api.completions.create(**asked)
    chunks = [chunk async for chunk in await api.completions.create(**asked, stream=True)]
    for choice in whole.choices:
        own = [c.choices[0] for c in chunks if c.choices[0].index == choice.index]
        assert "".join(chunk.text for chunk in own) == choice.text
        for name in NAMES:
            joined = [value for chunk in own if chunk.logprobs for value in getattr(chunk.logprobs, name)]
            assert joined == getattr(choice.logprobs, name)


async def test_as_lm_eval_asks(api: AsyncOpenAI) -> None:
    """Prompts as token ids, several at once, one token of output; the last entry is the output's."""
    prompts = [IDS, IDS[:4]]
    answer = await api.completions.create(**BODY | {"prompt": prompts, "max_tokens": 1}, echo=True, logprobs=1)
    for choice, ids in zip(answer.choices, prompts, strict=True):
        assert choice.logprobs is not None
        values, top = choice.logprobs.token_logprobs or [], choice.logprobs.top_logprobs or []
        assert values[1:-1] == [toy_log_probs(ids[: place + 1], 1).log_prob for place in range(1, len(ids))]
        assert all(value in entry.values() for value, entry in zip(values[1:], top[1:], strict=True))


@pytest.mark.parametrize("logprobs", [None, 1])
async def test_no_output_with_an_echo(api: AsyncOpenAI, logprobs: int | None) -> None:
    answer = await api.completions.create(**BODY | {"max_tokens": 0}, echo=True, logprobs=logprobs)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == (PROMPT, "length")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 0)
    if logprobs is None:
        assert choice.logprobs is None
    else:
        assert choice.logprobs is not None
        assert {name: getattr(choice.logprobs, name) for name in NAMES} == expected_lists(1)
    stream = await api.completions.create(**BODY | {"max_tokens": 0}, echo=True, logprobs=logprobs, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT
    assert chunks[-1].choices[0].finish_reason == "length"


def check_prompt_logprobs(found: list[Any], ids: list[int], num_top: int) -> None:
    assert len(found) == len(ids)
    assert found[0] is None
    for place in range(1, len(ids)):
        wanted = toy_log_probs(ids[: place + 1], num_top)
        own = {"logprob": wanted.log_prob, "rank": wanted.rank, "decoded_token": chr(ids[place])}
        top = {
            str(token_id): {"logprob": value, "rank": rank, "decoded_token": chr(token_id)}
            for rank, (token_id, value) in enumerate(wanted.top, 1)
        }
        assert found[place] == {str(ids[place]): own} | top


@pytest.mark.parametrize("num_top", [0, 2])
async def test_vllms_list(suite: ToySuite, num_top: int) -> None:
    reply = await ask(suite, "/v1/completions", BODY | {"prompt_logprobs": num_top, "n": 2})
    assert reply.status == 200, reply.content
    for index, choice in enumerate(reply.json["choices"]):
        check_prompt_logprobs(choice["prompt_logprobs"], IDS, num_top)
        assert choice["text"] == text_of(index, 5)
        assert choice["logprobs"] is None
    both = await ask(suite, "/v1/completions", BODY | {"prompt_logprobs": 2, "echo": True, "logprobs": 2})
    check_prompt_logprobs(both.json["choices"][0]["prompt_logprobs"], IDS, 2)
    assert both.json["choices"][0]["logprobs"]["token_logprobs"][: len(IDS)] == expected_lists(2)["token_logprobs"]
    without = await ask(suite, "/v1/completions", BODY)
    assert "prompt_logprobs" not in without.json["choices"][0]


async def test_vllms_list_in_conversations(suite: ToySuite) -> None:
    ids = list(b"[user]hi[assistant]")
    for max_tokens in (5, 0):
        reply = await ask(suite, "/v1/chat/completions", CHAT | {"prompt_logprobs": 1, "max_tokens": max_tokens})
        check_prompt_logprobs(reply.json["prompt_logprobs"], ids, 1)
        assert len(reply.json["choices"][0]["message"]["content"]) == max_tokens
    assert "prompt_logprobs" not in (await ask(suite, "/v1/chat/completions", CHAT)).json
