"""``/v1/completions`` with openai's client: every field arrives, and what comes back is what gRPC gives."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from openai import AsyncOpenAI

from specgrove.v1 import router_pb2, token_tree_pb2
from tests.router import generating
from tests.router.http.asking import PROMPT, api_of, ask, http_suite, text_of
from tests.router.toy_language import EOS, toy_next, toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite
from tests.waiting import until

BODY: dict[str, Any] = {"model": "toy", "prompt": PROMPT, "max_tokens": 20, "seed": 0}


async def streamed(api: AsyncOpenAI, **body: Any) -> list[Any]:
    return [chunk async for chunk in await api.completions.create(**BODY | body, stream=True)]


def texts_of(chunks: list[Any]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts


async def test_outputs_and_usage_are_those_of_grpc(suite: ToySuite, api: AsyncOpenAI) -> None:
    whole = await api.completions.create(**BODY)
    responses = await generating.responses_to(suite, generating.request_of(max_tokens=20))
    assert whole.choices[0].text == generating.text_of(responses) == text_of()
    assert texts_of(await streamed(api)) == {0: text_of()}
    assert (whole.object, whole.model, whole.choices[0].finish_reason) == ("text_completion", "toy", "length")
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (11, 20, 31)


async def test_accepted_and_rejected_drafts_are_told(suite: ToySuite, api: AsyncOpenAI) -> None:
    whole = await api.completions.create(**BODY | {"max_tokens": 100})
    assert whole.usage is not None
    details = whole.usage.completion_tokens_details
    assert details is not None
    # The toys' drafts are right now and then. Each step gives one token besides.
    assert 0 < (details.accepted_prediction_tokens or 0) < 100
    assert (details.rejected_prediction_tokens or 0) > 0
    off = await api.completions.create(**BODY, extra_body={"speculation": {"disabled": True}})
    assert off.usage is not None
    assert off.usage.completion_tokens_details is not None
    assert off.usage.completion_tokens_details.accepted_prediction_tokens == 0
    assert off.choices[0].text == text_of()


async def test_a_stream_tells_its_usage_when_asked(api: AsyncOpenAI) -> None:
    without = await streamed(api)
    assert all(chunk.usage is None and chunk.choices for chunk in without)
    chunks = await streamed(api, stream_options={"include_usage": True}, n=2)
    assert not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == 40
    assert chunks[-1].usage.prompt_tokens == 11
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_chunks_tell_what_their_output_has_taken_so_far_as_in_vllm(api: AsyncOpenAI) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = await streamed(api, stream_options=options, n=2)
    for index in (0, 1):
        usages = [chunk.usage for chunk in chunks if chunk.choices[0].index == index]
        counts = [usage.completion_tokens for usage in usages]
        assert len(counts) > 2
        assert counts == sorted(counts)
        assert (counts[0] < 20, counts[-1]) == (True, 20)
        assert all((usage.prompt_tokens, usage.total_tokens) == (11, 11 + usage.completion_tokens) for usage in usages)
    assert (last.choices, last.usage.completion_tokens, last.usage.prompt_tokens) == ([], 40, 11)
    # It counts only beside the other.
    alone = await streamed(api, stream_options={"continuous_usage_stats": True})
    assert all(chunk.usage is None and chunk.choices for chunk in alone)


async def test_a_stream_ends_with_done(suite: ToySuite) -> None:
    reply = await ask(suite, "/v1/completions", BODY | {"stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert b"data: [DONE]\n\n" in reply.content
    assert b'"usage"' not in reply.content


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", ["ab"]),
        (["ab", "cd"], ["ab", "cd"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [99, 100]], ["ab", "cd"]),
        (["ab", [99, 100]], ["ab", "cd"]),
    ],
)
async def test_prompts_have_all_forms(api: AsyncOpenAI, prompt: Any, expected: list[str]) -> None:
    answer = await api.completions.create(**BODY | {"prompt": prompt}, n=2)
    texts = [text_of(seed, prompt=text) for text in expected for seed in (0, 1)]
    assert [choice.text for choice in answer.choices] == texts
    assert [choice.index for choice in answer.choices] == list(range(len(texts)))
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2 * len(expected)  # once each, however many outputs it has
    assert texts_of(await streamed(api, prompt=prompt, n=2)) == dict(enumerate(texts))


async def test_output_i_has_the_seed_plus_i(api: AsyncOpenAI) -> None:
    answer = await api.completions.create(**BODY | {"seed": 7}, n=3)
    assert [choice.text for choice in answer.choices] == [text_of(seed) for seed in (7, 8, 9)]
    assert [choice.seed for choice in answer.choices] == [7, 8, 9]  # type: ignore[attr-defined]
    negative = await api.completions.create(**BODY | {"seed": -1})
    assert negative.choices[0].seed == 2**64 - 1  # type: ignore[attr-defined]


async def test_a_drawn_seed_is_told_and_gives_the_output_again(api: AsyncOpenAI) -> None:
    first = await api.completions.create(**BODY | {"seed": None})
    assert first.choices[0].seed < 2**53  # type: ignore[attr-defined]
    again = await api.completions.create(**BODY | {"seed": first.choices[0].seed})  # type: ignore[attr-defined]
    assert again.choices[0].text == first.choices[0].text


@pytest.mark.parametrize("prompt", [PROMPT, list(PROMPT.encode()), [PROMPT, list(PROMPT.encode())]])
async def test_echo_puts_the_prompt_before_the_output(api: AsyncOpenAI, prompt: Any) -> None:
    answer = await api.completions.create(**BODY | {"prompt": prompt}, echo=True)
    assert {choice.text for choice in answer.choices} == {PROMPT + text_of()}
    assert set(texts_of(await streamed(api, prompt=prompt, echo=True)).values()) == {PROMPT + text_of()}


@pytest.mark.parametrize("stop_as_list", [False, True])
async def test_stop_texts_end_outputs(api: AsyncOpenAI, stop_as_list: bool) -> None:
    text = text_of()
    stop = text[8:11]
    body = BODY | {"stop": ["never there", stop] if stop_as_list else stop}
    choice = (await api.completions.create(**body)).choices[0]
    assert (choice.text, choice.finish_reason, choice.stop_reason) == (text[:8], "stop", stop)  # type: ignore[attr-defined]
    with_stop = await api.completions.create(**body, extra_body={"include_stop_str_in_output": True})
    assert with_stop.choices[0].text == text[:11]
    chunks = await streamed(api, **body, extra_body={"include_stop_str_in_output": True})
    assert texts_of(chunks) == {0: text[:11]}
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_the_parameters_of_vllm_arrive(api: AsyncOpenAI) -> None:
    expected = toy_output(list(PROMPT.encode()), 20)
    at = next(index for index in range(5, 20) if expected.index(expected[index]) == index)
    stopping = {"stop_token_ids": [expected[at]]}
    choice = (await api.completions.create(**BODY, extra_body=stopping)).choices[0]
    assert (choice.text, choice.stop_reason) == (text_of()[:at], expected[at])  # type: ignore[attr-defined]
    # All of these the router checks: that it finds them wrong shows that they arrive.
    wrong = {"min_p": 2.0, "repetition_penalty": 0.0, "top_p": 3.0, "presence_penalty": 3.0, "frequency_penalty": -3.0}
    with pytest.raises(Exception, match="min_p") as info:
        await api.completions.create(**BODY, extra_body=wrong | {"min_tokens": 100, "logit_bias": {"5": 101, "999": 0}})
    assert all(name in str(info.value) for name in (*wrong, "logit_bias"))
    with pytest.raises(Exception, match="min_tokens: must be at most max_tokens"):
        await api.completions.create(**BODY, extra_body={"min_tokens": 100, "top_k": -1})


async def test_special_tokens_and_the_end_of_sequence() -> None:
    def with_eos(prefix: Any, seed: int) -> int:
        return EOS if len(prefix) == len(PROMPT) + 5 else toy_next(prefix, seed)

    expected = toy_output(list(PROMPT.encode()), 20, next_token=with_eos)
    before, after = bytes(expected[:5]).decode(), bytes(expected[6:]).decode()
    async with http_suite(ToyLlm(with_eos)) as suite, api_of(suite) as api:
        ended = (await api.completions.create(**BODY)).choices[0]
        assert (ended.text, ended.finish_reason, ended.stop_reason) == (before, "stop", EOS)  # type: ignore[attr-defined]
        ignored = await api.completions.create(**BODY, extra_body={"ignore_eos": True})
        assert ignored.choices[0].text == before + after
        shown = await api.completions.create(**BODY, extra_body={"ignore_eos": True, "skip_special_tokens": False})
        assert shown.choices[0].text == f"{before}<eos>{after}"
        stopped = await api.completions.create(
            **BODY, stop="<eos>", extra_body={"ignore_eos": True, "include_stop_str_in_output": True}
        )
        assert stopped.choices[0].text == f"{before}<eos>"


async def test_log_probabilities_name_tokens_by_their_bytes() -> None:
    text = "Grüße 木"

    def speak(prefix: Any, seed: int) -> int:
        return text.encode()[len(prefix) - len(PROMPT)]

    async with http_suite(ToyLlm(speak)) as suite, api_of(suite) as api:
        body = BODY | {"max_tokens": len(text.encode())}
        found = (await api.completions.create(**body, logprobs=1)).choices[0]
        assert found.text == text
        assert found.logprobs is not None
        assert found.logprobs.tokens is not None
        assert found.logprobs.tokens[:4] == ["G", "r", "bytes:\\xc3", "bytes:\\xbc"]
        assert found.logprobs.text_offset == [0, 1, 2, 2, 3, 3, 4, 5, 6, 6, 6]
        assert found.logprobs.token_logprobs == [-0.5] * len(text.encode())
        assert found.logprobs.top_logprobs is not None
        assert found.logprobs.top_logprobs[2] == {"bytes:\\xc3": -0.5}
        chunks = await streamed(api, **body, logprobs=1)
        for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
            joined = [value for chunk in chunks for value in getattr(chunk.choices[0].logprobs, name, None) or []]
            assert joined == getattr(found.logprobs, name)
        own = (await api.completions.create(**body, logprobs=0)).choices[0].logprobs
        assert own is not None
        assert own.top_logprobs == [{}] * len(text.encode())


async def test_grpc_tells_the_bytes_of_tokens(suite: ToySuite) -> None:
    sampling = token_tree_pb2.SamplingParams(seed=0, num_log_probs=1)
    responses = await generating.responses_to(suite, generating.request_of(sampling=sampling))
    tokens = [token for response in responses for token in response.tokens]
    assert all(token.token_bytes == bytes([token.token_id]) == token.log_probs.top[0].token_bytes for token in tokens)
    plain = await generating.responses_to(suite, generating.request_of())
    assert not any(token.token_bytes for response in plain for token in response.tokens)
    assert router_pb2.GeneratedToken.DESCRIPTOR.fields_by_name["token_bytes"]


async def test_64_streams_at_once(suite: ToySuite, api: AsyncOpenAI) -> None:
    prompts = [f"prompt number {i}" for i in range(64)]
    found = await asyncio.gather(*(streamed(api, prompt=prompt) for prompt in prompts))
    assert [texts_of(chunks)[0] for chunks in found] == [text_of(prompt=prompt) for prompt in prompts]
    await until(lambda: not suite.llm.sessions and not suite.ssm.sessions)


async def test_a_long_body_is_taken(suite: ToySuite) -> None:
    """It is converted in a thread."""
    reply = await ask(suite, "/detokenize", {"tokens": [104] * 20_000})
    assert reply.json == {"prompt": "h" * 20_000}
    wrong = await ask(suite, "/detokenize", {"tokens": [104] * 20_000 + [-1]})
    assert (wrong.status, wrong.error["param"]) == (400, "tokens")
