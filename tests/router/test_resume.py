"""Outputs that go on at another router: wherever the seam is, the rest is the undisturbed output's. Toy services, real sockets."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from specgrove.errors import InvalidRequestError
from specgrove.serving.status import error_from_rpc
from specgrove.v1 import router_pb2, token_tree_pb2
from tests.router.generating import PROMPT, request_of, responses_to, text_of, token_ids_of
from tests.router.toy_language import EOS, speech, toy_output
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite, toy_suite

INCREMENTAL = router_pb2.SpeculationOptions(disabled=True)
Responses = list[router_pb2.GenerateResponse]


async def resumed(suite: ToySuite, request: router_pb2.GenerateRequest, before: Responses) -> Responses:
    """What comes behind the responses that a client has."""
    again = router_pb2.GenerateRequest()
    again.CopyFrom(request)
    again.resume.token_ids.extend(token_ids_of(before))
    again.resume.numerics = before[0].numerics
    return await responses_to(suite, again)


def facts_of(responses: Responses) -> dict[str, Any]:
    """All that must not depend on where an output went on."""
    last = responses[-1]
    return {
        "token_ids": token_ids_of(responses),
        "text": text_of(responses),
        "token_texts": [token.text for response in responses for token in response.tokens],
        "log_probs": [MessageToDict(token.log_probs) for response in responses for token in response.tokens],
        "end": (last.finish_reason, MessageToDict(last.stop_reason)),
        "usage": (last.usage.num_prompt_tokens, last.usage.num_output_tokens, last.usage.seed),
    }


FULL = bytes(toy_output(PROMPT, 40)).decode()
REQUESTS = {
    "a stop text that spans pieces": {"max_tokens": 40, "stop": [FULL[17:24], "never there"]},
    "a stop text that almost comes": {"max_tokens": 40, "stop": [FULL[17:24] + "\0"]},
    "stop texts from a minimum on": {
        "max_tokens": 40, "stop": [FULL[5:7], FULL[30:33]],
        "sampling": token_tree_pb2.SamplingParams(seed=0, min_tokens=20),
    },
    "sampled, with log-probabilities": {
        "max_tokens": 40, "sampling": token_tree_pb2.SamplingParams(seed=5, temperature=1.0, num_log_probs=2),
        "num_prompt_log_probs": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_output_goes_on_from_any_piece(suite: ToySuite, name: str) -> None:
    request = request_of(speculation=INCREMENTAL, **REQUESTS[name])  # type: ignore[arg-type]
    whole = await responses_to(suite, request)
    expected = facts_of(whole)
    assert whole[0].num_prompt_tokens_read == 0
    first_output = next(number for number, response in enumerate(whole) if response.tokens)
    for num_pieces in range(first_output + 1, len(whole)):
        before = [response for response in whole[first_output:num_pieces] if response.tokens]
        after = await resumed(suite, request, before)
        assert facts_of([*before, *after]) == expected
        assert after[0].num_resumed_tokens == after[-1].usage.num_resumed_tokens == len(token_ids_of(before))
        assert not any(response.prompt_tokens for response in after)
        num_steps = after[-1].usage.num_verify_steps
        assert num_steps == len(token_ids_of(after))


async def test_characters_are_whole_across_the_seam() -> None:
    text = "Grüße, 世界 🌳!"
    async with toy_suite(ToyLlm(speech(text, "hi"))) as suite:
        request = request_of(text="hi", speculation=INCREMENTAL, stop=["界 🌳?"])
        whole = await responses_to(suite, request)
        assert text_of(whole) == text
        for num_tokens in range(1, len(token_ids_of(whole))):
            before, known = [], 0
            for response in whole:
                if known < num_tokens:
                    before.append(response)
                    known += len(response.tokens)
            after = await resumed(suite, request, before)
            assert facts_of([*before, *after]) == facts_of(whole)


async def test_trees_are_drafted_behind_the_seam(suite: ToySuite) -> None:
    request = request_of(max_tokens=120)
    whole = await responses_to(suite, request)
    after = await resumed(suite, request, whole[:3])
    assert token_ids_of([*whole[:3], *after]) == toy_output(PROMPT, 120)
    assert after[-1].usage.num_drafted_nodes > 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_tokens": 30}, router_pb2.FINISH_REASON_LENGTH),
        ({"max_tokens": 60, "stop": [FULL[20:23]]}, router_pb2.FINISH_REASON_STOP),
        ({"max_tokens": 60, "sampling": {"stop_token_ids": [ord(FULL[12])], "seed": 0}}, router_pb2.FINISH_REASON_STOP),
    ],
    ids=["length", "stop text", "stop token"],
)
async def test_an_output_that_has_ended_is_only_told_so(suite: ToySuite, fields: dict[str, Any], reason: int) -> None:
    request = request_of(speculation=INCREMENTAL, **fields)
    whole = await responses_to(suite, request)
    num_opened = len(suite.llm.opened)
    (only,) = await resumed(suite, request, whole)
    assert not only.tokens
    assert only.finish_reason == whole[-1].finish_reason == reason
    assert only.stop_reason == whole[-1].stop_reason
    assert only.usage.num_output_tokens == whole[-1].usage.num_output_tokens
    assert len(suite.llm.opened) == num_opened


async def test_the_first_piece_says_what_decides_the_bits(suite: ToySuite) -> None:
    whole = await responses_to(suite, request_of())
    assert whole[0].numerics
    assert not any(response.numerics for response in whole[1:])
    request = request_of(resume=router_pb2.Resume(token_ids=token_ids_of(whole[:1]), numerics="another build"))
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await responses_to(suite, request)
    error = error_from_rpc(info.value)
    assert isinstance(error, InvalidRequestError)
    assert [violation.field for violation in error.violations] == ["resume.numerics"]


async def test_other_numerics_have_another_digest(suite: ToySuite) -> None:
    found = (await responses_to(suite, request_of()))[0].numerics
    llm = ToyLlm()
    llm.numerics = ["weights toy", "cpu other"]
    async with toy_suite(llm) as other:
        assert (await responses_to(other, request_of()))[0].numerics != found


async def test_tokens_behind_a_stop_text_are_refused(suite: ToySuite) -> None:
    tokens = toy_output(PROMPT, 10)
    request = request_of(stop=[FULL[2:4]], resume=router_pb2.Resume(token_ids=tokens))
    with pytest.raises(grpc.aio.AioRpcError) as info:
        await responses_to(suite, request)
    assert "a stop text ends the output after 4" in str(error_from_rpc(info.value))


async def test_a_stop_token_has_no_text_behind_the_seam() -> None:
    async with toy_suite(ToyLlm(speech("ok", "hi"))) as suite:
        request = request_of(text="hi", resume=router_pb2.Resume(token_ids=[*b"ok", EOS]))
        (only,) = await responses_to(suite, request)
        assert (only.text, only.stop_reason.token_id) == ("", EOS)
