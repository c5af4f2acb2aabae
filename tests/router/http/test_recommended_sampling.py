"""Sampling parameters that are left out: those that the model recommends, or the API's own; what a request says comes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.config import HttpConfig
from specgrove.client import AsyncClient
from specgrove.v1 import token_tree_pb2
from tests.router.http.asking import PROMPT, ask
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite, toy_suite

RECOMMENDED = {"temperature": 0.5, "top_k": 20, "top_p": 0.75, "repetition_penalty": 1.25}
BODY = {"prompt": PROMPT, "max_tokens": 1}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class Recording(ToyLlm):
    """Keeps the sampling parameters that sessions were opened with."""

    def __init__(self, **recommended: Any) -> None:
        super().__init__()
        self.recommended = token_tree_pb2.SamplingParams(**recommended)
        self.samplings: list[dict[str, float]] = []

    def _take_in(self, work: Any) -> Any:
        if work.session is not None:
            self.samplings.append({name: getattr(work.session.sampling, name) for name in NAMES})
        return super()._take_in(work)


def suite_of(llm: Recording, *, is_on: bool) -> Any:
    return toy_suite(llm, http=HttpConfig("127.0.0.1:0", recommends_sampling=is_on))


async def sampling_of(suite: ToySuite, path: str, body: dict[str, Any]) -> dict[str, float]:
    reply = await ask(suite, path, body)
    assert reply.status == 200, reply.content
    assert isinstance(suite.llm, Recording)
    return suite.llm.samplings[-1]


@pytest.mark.parametrize(("path", "body"), [("/v1/completions", BODY), ("/v1/chat/completions", CHAT)])
async def test_what_is_left_out_is_as_the_model_recommends(path: str, body: dict[str, Any]) -> None:
    async with suite_of(Recording(**RECOMMENDED), is_on=True) as suite:
        assert await sampling_of(suite, path, body) == RECOMMENDED | {"min_p": 0.0}
        own = {"temperature": 0.0, "top_k": -1, "top_p": 1.0, "repetition_penalty": 1.0}
        assert await sampling_of(suite, path, body | own) == own | {"top_k": 0, "min_p": 0.0}
        assert await sampling_of(suite, path, body | {"top_p": 0.25, "min_p": 0.125}) == RECOMMENDED | {
            "top_p": 0.25, "min_p": 0.125,
        }  # fmt: skip


async def test_responses_tell_what_they_were_made_with() -> None:
    async with suite_of(Recording(**RECOMMENDED), is_on=True) as suite:
        body = {"input": "hi", "max_output_tokens": 1}
        assert await sampling_of(suite, "/v1/responses", body) == RECOMMENDED | {"min_p": 0.0}
        told = (await ask(suite, "/v1/responses", body | {"top_p": 0.25})).json
        assert (told["temperature"], told["top_p"]) == (0.5, 0.25)


async def test_without_a_recommended_temperature_it_is_openais() -> None:
    async with suite_of(Recording(top_k=7), is_on=True) as suite:
        found = await sampling_of(suite, "/v1/completions", BODY)
        assert (found["temperature"], found["top_k"]) == (1.0, 7)


async def test_the_option_turns_it_off() -> None:
    off = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    async with suite_of(Recording(**RECOMMENDED), is_on=False) as suite:
        assert await sampling_of(suite, "/v1/completions", BODY) == off


@pytest.fixture
async def client_and_llm() -> AsyncIterator[tuple[AsyncClient, Recording]]:
    llm = Recording(**RECOMMENDED)
    async with toy_suite(llm) as suite, AsyncClient(suite.app.server.address) as client:
        yield client, llm


async def test_over_grpc_each_request_says_whether_it_wants_it(client_and_llm: tuple[AsyncClient, Recording]) -> None:
    client, llm = client_and_llm
    greedy = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    await client.complete("hi", max_tokens=1)
    await client.complete("hi", max_tokens=1, recommended_sampling=True)
    await client.complete("hi", max_tokens=1, recommended_sampling=True, temperature=0.0, top_p=0.5)
    assert llm.samplings == [
        greedy,
        RECOMMENDED | {"min_p": 0.0},
        RECOMMENDED | {"temperature": 0.0, "top_p": 0.5, "min_p": 0.0},
    ]
    assert (await client.model_info()).recommended_sampling == RECOMMENDED
