"""What clients are told of the prefix cache, and how they keep their prompts apart."""

from __future__ import annotations

import grpc
import httpx
import pytest

from tests.router.generating import request_of, responses_to, token_ids_of
from tests.router.http.asking import http_address, http_suite
from tests.router.toy_services import ToyLlm
from tests.router.toy_ssm import ToySsm
from tests.router.toy_suite import toy_suite


async def test_usage_tells_what_was_found_at_the_beginning() -> None:
    """What a replay finds was computed for this very request."""
    llm = ToyLlm()
    llm.num_cached_tokens, llm.forget_probability = 7, 0.3
    async with toy_suite(llm) as suite:
        responses = await responses_to(suite, request_of())
        assert len(token_ids_of(responses)) == 60
        usage = responses[-1].usage
        assert usage.num_replays > 0
        assert usage.num_cached_prompt_tokens == 7
        assert usage.num_prompt_tokens == 11


async def test_no_more_is_told_than_the_prompt_has() -> None:
    """A session that goes on with an output is opened with more."""
    llm = ToyLlm()
    llm.num_cached_tokens = 1000
    async with toy_suite(llm) as suite:
        assert (await responses_to(suite, request_of()))[-1].usage.num_cached_prompt_tokens == 11


async def test_openai_clients_find_it_where_they_look_for_it() -> None:
    llm = ToyLlm()
    llm.num_cached_tokens = 5
    async with http_suite(llm) as suite, httpx.AsyncClient(base_url=f"http://{http_address(suite)}/v1") as api:
        body = {"prompt": "Hello, tree", "max_tokens": 4, "n": 2, "cache_salt": "mine"}
        usage = (await api.post("/completions", json=body)).json()["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 5}
        answer = (await api.post("/responses", json={"input": "hi", "max_output_tokens": 4})).json()
        assert answer["usage"]["input_tokens_details"]["cached_tokens"] == 5
    assert [params.cache_salt for params in llm.opened] == ["mine", "mine", ""]


async def test_drafters_are_told_whose_prompts_they_read() -> None:
    """With all that opens a session there, and with nothing else."""
    ssm = ToySsm()
    ssm.forget_probability = 0.2
    async with toy_suite(ToyLlm(), ssm) as suite:
        for salt in ("mine", ""):
            ssm.asked.clear()
            await responses_to(suite, request_of(cache_salt=salt))
            assert len([work for work in ssm.asked if work.base == 0]) > 1
            assert {(work.base == 0, work.cache_salt) for work in ssm.asked} == {(True, salt), (False, None)}


async def test_a_salt_has_a_bound() -> None:
    async with toy_suite() as suite:
        await responses_to(suite, request_of(cache_salt="x" * 256))
        with pytest.raises(grpc.aio.AioRpcError, match="cache_salt: must have at most 256 characters, has 257"):
            await responses_to(suite, request_of(cache_salt="x" * 257))
