"""Log-probabilities of prompts through the router: each token's once and in order, whatever happens to the LLM service meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import pytest_asyncio

from specgrove.errors import InternalError, InvalidRequestError
from specgrove.loop.works import PromptProgress, SessionParams
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2, token_tree_pb2
from specgrove.wire import works
from tests.loop.loops import run
from tests.router.generating import PROMPT, request_of, responses_to, token_ids_of
from tests.router.toy_language import EOS, toy_output
from tests.router.toy_services import CONTEXT_LEN, ToyLlm, toy_log_probs
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import until


def prompt_tokens_of(responses: Sequence[router_pb2.GenerateResponse]) -> list[router_pb2.PromptToken]:
    """None comes after a token of the output."""
    nums_output = [len(response.tokens) for response in responses]
    begun = next((index for index, number in enumerate(nums_output) if number), len(responses))
    assert not any(response.prompt_tokens for response in responses[begun + 1 :])
    return [token for response in responses for token in response.prompt_tokens]


def check(tokens: Sequence[router_pb2.PromptToken], prompt: Sequence[int], num_top: int) -> None:
    assert [token.token_id for token in tokens] == list(prompt)
    assert [token.token_bytes for token in tokens] == [bytes([token_id]) for token_id in prompt]
    assert not tokens[0].HasField("log_probs")
    for place, token in enumerate(tokens[1:], 1):
        assert works.log_probs_from_proto(token.log_probs) == toy_log_probs(prompt[: place + 1], num_top)
        assert all(entry.token_bytes in (bytes([entry.token_id % 256]), b"<eos>") for entry in token.log_probs.top)


def asking(num_top: int = 2, **fields: Any) -> router_pb2.GenerateRequest:
    return request_of(num_prompt_log_probs=num_top, **fields)


@pytest_asyncio.fixture
async def suite() -> AsyncIterator[ToySuite]:
    async with toy_suite() as suite:
        yield suite


async def test_a_long_chunk_of_a_prompt_is_told_in_short_pieces(suite: ToySuite) -> None:
    prompt = [65 + place % 20 for place in range(200)]
    responses = await responses_to(
        suite, asking(1, token_ids=router_pb2.TokenIds(token_ids=prompt), prompt_progress=True, max_tokens=2)
    )
    check(prompt_tokens_of(responses), prompt, 1)
    # The first one comes with the second.
    assert [num for response in responses if (num := len(response.prompt_tokens))] == [65, 64, 64, 7]
    assert [num for response in responses if (num := response.num_prompt_tokens_read)] == [199]


@pytest.mark.parametrize("chunk_len", [None, 1, 4])
async def test_each_token_comes_once_before_the_output(suite: ToySuite, chunk_len: int | None) -> None:
    suite.llm.chunk_len = chunk_len
    responses = await responses_to(suite, asking())
    check(prompt_tokens_of(responses), PROMPT, 2)
    assert token_ids_of(responses) == toy_output(PROMPT, 60)
    assert not any(response.num_prompt_tokens_read for response in responses)
    both = await responses_to(suite, asking(0, prompt_progress=True))
    check(prompt_tokens_of(both), PROMPT, 0)
    assert max(response.num_prompt_tokens_read for response in both) == len(PROMPT) - 1
    silent = await responses_to(suite, request_of())
    assert not prompt_tokens_of(silent)


async def test_a_prompt_of_one_token_has_none(suite: ToySuite) -> None:
    for only in (False, True):
        fields = {"max_tokens": 0, "prompt_only": True} if only else {}
        responses = await responses_to(suite, asking(text="x", **fields))
        check(prompt_tokens_of(responses), b"x", 2)


async def test_texts_are_those_of_a_stream(suite: ToySuite) -> None:
    """A character is the text of its last token; special tokens have none unless they are kept; what is left incomplete is U+FFFD."""
    ids = [*"aß".encode(), EOS, "木".encode()[0]]
    fields = {"token_ids": router_pb2.TokenIds(token_ids=ids)}
    tokens = prompt_tokens_of(await responses_to(suite, asking(**fields)))
    assert [token.text for token in tokens] == ["a", "", "ß", "", "\ufffd"]
    assert tokens[3].token_bytes == b"<eos>"
    kept = prompt_tokens_of(await responses_to(suite, asking(**fields, keep_special_tokens=True)))
    assert [token.text for token in kept] == ["a", "", "ß", "<eos>", "\ufffd"]


async def test_a_prompt_alone_gives_no_output_and_may_fill_the_context(suite: ToySuite) -> None:
    prompt = (PROMPT * CONTEXT_LEN)[:CONTEXT_LEN]
    request = asking(token_ids=router_pb2.TokenIds(token_ids=prompt), max_tokens=0, prompt_only=True)
    responses = await responses_to(suite, request)
    check(prompt_tokens_of(responses), prompt, 2)
    assert not token_ids_of(responses)
    usage = responses[-1].usage
    assert (usage.num_prompt_tokens, usage.num_output_tokens) == (CONTEXT_LEN, 0)
    assert responses[-1].finish_reason == router_pb2.FINISH_REASON_LENGTH
    assert not suite.ssm.asked, "nothing follows that could be drafted"
    await until(lambda: not suite.llm.sessions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prompt_log_probs": 21}, "num_prompt_log_probs: must be at most 20, got 21"),
        ({"prompt_only": True}, "max_tokens: must be left out with prompt_only"),
        (
            {"prompt_only": True, "max_tokens": 0, "sampling": token_tree_pb2.SamplingParams(min_tokens=3)},
            "sampling.min_tokens: must be left out with prompt_only",
        ),
        ({"prompt_only": True, "max_tokens": 0, "text": "x" * 513}, "text: has"),
        (
            {"prompt_only": True, "max_tokens": 0, "token_ids": router_pb2.TokenIds(token_ids=[1] * 513)},
            "token_ids: has 513 tokens; the context is 512 tokens",
        ),
    ],
)
async def test_wrong_wishes_are_refused(suite: ToySuite, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await responses_to(suite, request_of(**fields))
    error = error_from_rpc(info.value)
    assert isinstance(error, InvalidRequestError)
    assert message in str(error)


async def test_after_a_replicas_death_the_rest_is_asked_for_and_nothing_comes_twice() -> None:
    dying, fresh = ToyLlm(), ToyLlm()
    dying.chunk_len = fresh.chunk_len = 3
    dying.num_free_chunks = 2
    dying.gate.clear()
    async with toy_suite(dying) as suite:
        responses = aiter(suite.stub.Generate(asking()))
        early = [await anext(responses), await anext(responses)]
        await suite.restart_llm(fresh)
        late = [response async for response in responses]
        check(prompt_tokens_of([*early, *late]), PROMPT, 2)
        assert token_ids_of(late) == toy_output(PROMPT, 60)
        assert (dying.prompts_asked, fresh.prompts_asked) == ([(1, 2)], [(7, 2)])


async def test_a_replay_in_mid_output_asks_for_none() -> None:
    dying, fresh = ToyLlm(), ToyLlm()
    dying.num_free_steps = 10
    async with toy_suite(dying) as suite:
        dying.gate.clear()
        generating = asyncio.create_task(responses_to(suite, asking()))
        await until(lambda: dying.num_verified >= 10)
        await suite.restart_llm(fresh)
        responses = await generating
        check(prompt_tokens_of(responses), PROMPT, 2)
        assert token_ids_of(responses) == toy_output(PROMPT, 60)
        assert fresh.num_verified > 0
        assert not fresh.prompts_asked


class Telling(ToyLlm):
    """Tells those of places from one to another, one message each."""

    spans = ((1, 2), (1, 3))

    async def _prompt_log_probs(
        self, session: SessionParams, token_ids: Sequence[int]
    ) -> AsyncGenerator[PromptProgress, None]:
        for start, end in self.spans:
            found = [toy_log_probs(token_ids[: place + 1], 1) for place in range(start, end)]
            yield PromptProgress(end - 1, start, tuple(found))


async def test_a_verifier_that_tells_some_again() -> None:
    _, steps = await run([], Telling(), num_prompt_log_probs=1)
    told = [entry for step in steps for entry in step.prompt_log_probs]
    assert told == [toy_log_probs(prompt, 1) for prompt in ([1, 2], [1, 2, 3])]


async def test_a_verifier_that_leaves_some_out_is_at_fault() -> None:
    telling = Telling()
    telling.spans = ((2, 3),)
    with pytest.raises(InternalError, match="from place 2 on; wanted are those from 1 on"):
        await run([], telling, num_prompt_log_probs=1)
    telling.spans = ((1, 2),)
    with pytest.raises(InternalError, match="a verdict before the prompt's log-probabilities"):
        await run([], telling, num_prompt_log_probs=1)
