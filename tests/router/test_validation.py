"""Each wrong value names its field; several are all named."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from router.structure_check import StructureCheck
from router.text_work import TextWork
from router.validation import check_fields, checked_detokenize, checked_request, checked_tokenize
from specgrove.errors import InvalidRequestError
from specgrove.structures.structured_output import StructuredOutput, StructureKind
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2
from tests.router.checking import MODEL, chat_of, chat_with, checked_of, ids_of, sampling_of, structured_of
from tests.router.toy_language import EOS, VOCAB_SIZE, toy_tokenizer_json
from tests.router.toy_services import CONTEXT_LEN
from tests.waiting import LIMIT_S

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"resume": {"token_ids": [VOCAB_SIZE]}}, "resume.token_ids"),
    ({"resume": {"token_ids": [65] * (CONTEXT_LEN + 1)}}, "resume.token_ids"),
    ({"resume": {"token_ids": [65, 66]}, "max_tokens": 1}, "resume.token_ids"),
    ({"resume": {"token_ids": [EOS, 65]}}, "resume.token_ids"),
    ({"resume": {"token_ids": [65]}, "prompt_only": True}, "resume.token_ids"),
    ({"resume": {"token_ids": [65], "numerics": "another build"}}, "resume.numerics"),
    ({"resume": {"token_ids": [65]}, **sampling_of(temperature=1.0)}, "sampling.seed"),
    ({"no_prompt": True}, "prompt"),
    ({"text": ""}, "text"),
    ({"text": "x" * CONTEXT_LEN}, "text"),
    ({"text": "x" * 1_000_000}, "text"),
    (chat_of(), "chat.messages"),
    (chat_of(("user", "hi"), ("", "hi")), "chat.messages[1].role"),
    (chat_of(("user", "hi"), ("<|im_end|>", "hi")), "chat.messages[1].role"),
    (chat_of(("user", "hi"), ("r" * 65, "hi")), "chat.messages[1].role"),
    (chat_of(*[("user", "")] * 4097), "chat.messages"),
    *[
        (chat_with(chat_template_kwargs_json=text), "chat.chat_template_kwargs_json")
        for text in (
            '{"messages": []}',
            '{"tools": "' + "x" * 65_536 + '"}',
            "[" * 65_536,
            '{"a": ' + "[" * 60_000,
            "[1]",
            "null",
            "{",
            '{"a": NaN}',
            '{"a": [-Infinity]}',
            '{"a": 1e999}',
            '{"a": "\\ud83d"}',
            '{"\\udE00": 1}',
            "{'a': 1}",
            '{"a": 1} b',
            '{"a": ' + "9" * 5000 + "}",
        )
    ],
    (chat_with(add_generation_prompt=True, continue_final_message=True), "chat.add_generation_prompt"),
    (
        {"chat": {"messages": [{"role": "user", "attributes_json": '{"content": 1}'}]}},
        "chat.messages[0].attributes_json",
    ),
    ({"chat": {"messages": [{"role": "user", "attributes_json": "x"}]}}, "chat.messages[0].attributes_json"),
    (chat_of(("user", "x" * 1_000_000)), "chat"),
    (ids_of(), "token_ids.token_ids"),
    (ids_of(1, VOCAB_SIZE), "token_ids.token_ids"),
    (ids_of(*[1] * (CONTEXT_LEN + 1)), "token_ids"),
    ({"model": "gpt"}, "model"),
    ({"max_tokens": CONTEXT_LEN}, "max_tokens"),
    (sampling_of(temperature=-1), "sampling.temperature"),
    (sampling_of(temperature=math.nan), "sampling.temperature"),
    (sampling_of(temperature=math.inf), "sampling.temperature"),
    (sampling_of(temperature=101), "sampling.temperature"),
    (sampling_of(top_p=-0.01), "sampling.top_p"),
    (sampling_of(top_p=1.01), "sampling.top_p"),
    (sampling_of(top_p=math.nan), "sampling.top_p"),
    (sampling_of(min_p=-0.1), "sampling.min_p"),
    (sampling_of(min_p=1.1), "sampling.min_p"),
    (sampling_of(repetition_penalty=0), "sampling.repetition_penalty"),
    (sampling_of(repetition_penalty=11), "sampling.repetition_penalty"),
    (sampling_of(presence_penalty=-2.1), "sampling.presence_penalty"),
    (sampling_of(frequency_penalty=2.1), "sampling.frequency_penalty"),
    (sampling_of(logit_bias={VOCAB_SIZE: 1.0}), "sampling.logit_bias"),
    (sampling_of(logit_bias={1: 101.0}), "sampling.logit_bias"),
    (sampling_of(logit_bias={1: math.nan}), "sampling.logit_bias"),
    (sampling_of(logit_bias=dict.fromkeys(range(1025), 0.0)), "sampling.logit_bias"),
    (sampling_of(stop_token_ids=[VOCAB_SIZE]), "sampling.stop_token_ids"),
    (sampling_of(stop_token_ids=range(65)), "sampling.stop_token_ids"),
    (sampling_of(num_log_probs=21), "sampling.num_log_probs"),
    (sampling_of(min_tokens=9) | {"max_tokens": 8}, "sampling.min_tokens"),
    (structured_of(), "sampling.structured_output"),
    (structured_of(json_object=False), "sampling.structured_output"),
    (structured_of(json_schema="{"), "sampling.structured_output.json_schema"),
    (structured_of(json_schema="[]"), "sampling.structured_output.json_schema"),
    (structured_of(json_schema='{"a": NaN}'), "sampling.structured_output.json_schema"),
    (structured_of(json_schema='{"a": ' + "[" * 60_000), "sampling.structured_output.json_schema"),
    (structured_of(json_schema='{"type": "objekt"}'), "sampling.structured_output.json_schema"),
    (structured_of(json_schema='{"a": "' + "x" * 65_536 + '"}'), "sampling.structured_output.json_schema"),
    (structured_of(regex=""), "sampling.structured_output.regex"),
    (structured_of(regex="(a"), "sampling.structured_output.regex"),
    (structured_of(choice={"texts": []}), "sampling.structured_output.choice"),
    (structured_of(choice={"texts": ["a"] * 1025}), "sampling.structured_output.choice"),
    (structured_of(grammar="start: x"), "sampling.structured_output.grammar"),
    (structured_of(json_object=True) | {"ignore_eos": True}, "ignore_eos"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["ok", "x" * 257]}, "stop[1]"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"speculation": router_pb2.SpeculationOptions(ssms=["magic"])}, "speculation.ssms"),
    ({"speculation": router_pb2.SpeculationOptions(ssms=["lookup"] * 65)}, "speculation.ssms"),
    ({"speculation": router_pb2.SpeculationOptions(max_depth=2**32 - 1)}, "speculation.max_depth"),
    ({"speculation": router_pb2.SpeculationOptions(max_num_nodes=256)}, "speculation.max_num_nodes"),
    ({"speculation": router_pb2.SpeculationOptions(beam_width=65)}, "speculation.beam_width"),
]


@pytest.mark.parametrize(("fields", "field"), WRONG, ids=[f"{i}-{field}" for i, (_, field) in enumerate(WRONG)])
async def test_a_wrong_value_names_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequestError) as info:
        await checked_of(**fields)
    assert field in {violation.field for violation in info.value.violations}
    assert len(str(info.value)) < 1000


async def test_a_structure_is_checked_once_and_kept() -> None:
    class Counting(TextWork):
        num_runs = 0

        async def run_apart(self, tokenizer: Tokenizer, function: Any) -> Any:
            self.num_runs += 1
            await asyncio.sleep(0)
            return function(tokenizer)

    texts = Counting()
    structures = StructureCheck(texts)
    proto = router_pb2.GenerateRequest(text="hello", **structured_of(regex="[a-z]+"))

    async def check() -> None:
        checked = await checked_request(proto, MODEL, texts, structures, session_id="s", deadline_s=None)
        assert checked.request.sampling.structured_output == StructuredOutput(StructureKind.REGEX, ("[a-z]+",))
        assert checked.request.sampling.stop_token_ids == (EOS,)

    await asyncio.gather(check(), check(), check())
    await check()
    assert texts.num_runs == 1
    other = replace(MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, None))
    await checked_request(proto, other, texts, structures, session_id="s", deadline_s=None)
    assert texts.num_runs == 2


async def test_a_structure_needs_something_that_ends_the_output() -> None:
    endless = replace(MODEL, eos_token_ids=())
    proto = router_pb2.GenerateRequest(text="hello", **structured_of(json_object=True))
    with pytest.raises(InvalidRequestError, match=r"structured_output: needs a token .* give stop_token_ids"):
        await checked_request(
            proto, endless, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
        )


async def test_all_violations_are_told_at_once() -> None:
    with pytest.raises(InvalidRequestError) as info:
        await checked_of(model="gpt", text="", stop=[""], **sampling_of(temperature=-1, top_p=2, num_log_probs=99))
    fields = [violation.field for violation in info.value.violations]
    assert fields == ["model", "sampling.temperature", "sampling.top_p", "sampling.num_log_probs", "stop[0]", "text"]


class Untouchable(TextWork):
    """For requests that must be refused before any text is worked on."""

    async def run(self, tokenizer: Tokenizer, num_bytes: int, function: Any) -> Any:
        raise AssertionError("a text was worked on")


async def test_a_megabyte_is_refused_without_tokenising() -> None:
    with pytest.raises(InvalidRequestError, match=r"1000.* bytes.*context is 512 tokens"):
        check_fields(router_pb2.GenerateRequest(text="x" * 1_000_000), MODEL, ())
    with pytest.raises(InvalidRequestError, match=r"1000.* bytes.*context is 512 tokens"):
        await checked_tokenize(router_pb2.TokenizeRequest(text="x" * 1_000_000), MODEL, Untouchable())


@pytest.mark.parametrize(
    "fields",
    [
        {"speculation": {"ssms": [""] * 500_000}},
        {"stop": [""] * 500_000},
        {"chat": {"messages": [{}] * 4096}},
        {"chat": {"messages": [{}] * 500_000}},
        {"token_ids": {"token_ids": [VOCAB_SIZE] * 500_000}},
        {"sampling": {"stop_token_ids": [VOCAB_SIZE] * 500_000}},
        {"model": "m" * 1_000_000},
    ],
    ids=["ssms", "stop", "roles", "messages", "token_ids", "stop_token_ids", "model"],
)
def test_however_much_is_wrong_the_error_is_short(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError) as info:
        check_fields(router_pb2.GenerateRequest(**fields), MODEL, ("lookup",))
    assert len(info.value.violations) <= 16
    assert len(str(info.value)) < 2000


def test_violations_that_are_not_listed_are_counted() -> None:
    with pytest.raises(InvalidRequestError) as info:
        check_fields(router_pb2.GenerateRequest(chat={"messages": [{}] * 20}), MODEL, ())
    assert len(info.value.violations) == 16
    assert str(info.value).endswith("request: and 5 more")


async def test_tokenize_and_detokenize_name_their_own_fields() -> None:
    with pytest.raises(InvalidRequestError) as info:
        await checked_tokenize(router_pb2.TokenizeRequest(), MODEL, Untouchable())
    assert str(info.value) == "input: none was given: set text or chat"
    too_many = router_pb2.DetokenizeRequest(token_ids=[1] * 65_537)
    with pytest.raises(InvalidRequestError, match=r"token_ids: has 65537 ids; at most 65536"):
        checked_detokenize(too_many, MODEL)
    with pytest.raises(InvalidRequestError, match=r"token_ids: token id 257 is out of range"):
        checked_detokenize(router_pb2.DetokenizeRequest(token_ids=[VOCAB_SIZE]), MODEL)


async def test_texts_without_tokens_are_tokenised_though_they_are_no_prompts() -> None:
    assert await checked_tokenize(router_pb2.TokenizeRequest(text=""), MODEL, TextWork()) == ()
    without = replace(MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, "{{ '' }}"))
    request = router_pb2.TokenizeRequest(**chat_of(("user", "hi")))
    assert await checked_tokenize(request, without, TextWork()) == ()
    proto = router_pb2.GenerateRequest(**chat_of(("user", "hi")))
    with pytest.raises(InvalidRequestError, match="chat: has no tokens"):
        await checked_request(
            proto, without, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
        )


async def test_stop_texts_that_are_special_tokens_are_stop_tokens() -> None:
    checked = await checked_of(stop=["<eos>", "eos", "<eos> "], ignore_eos=True)
    assert checked.request.sampling.stop_token_ids == (EOS,)
    assert checked.stop_text_of_token == {EOS: "<eos>"}
    # An ordinary token of that text may be a part of others, or come about from them.
    assert (await checked_of(stop=["a"], ignore_eos=True)).request.sampling.stop_token_ids == ()
    # One that only the tokenizer has: the LLM service would refuse its id.
    small = replace(MODEL, vocab_size=EOS)
    proto = router_pb2.GenerateRequest(text="hello", stop=["<eos>"], ignore_eos=True)
    checked = await checked_request(
        proto, small, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
    )
    assert (checked.stop_text_of_token, checked.request.sampling.stop_token_ids) == ({}, ())


async def test_no_more_log_probabilities_are_asked_for_than_there_are_tokens() -> None:
    small = replace(MODEL, vocab_size=7)
    check_fields(router_pb2.GenerateRequest(text="x", **sampling_of(num_log_probs=7)), small, ())
    with pytest.raises(InvalidRequestError, match=r"sampling.num_log_probs: must be at most 7, got 8"):
        check_fields(router_pb2.GenerateRequest(text="x", **sampling_of(num_log_probs=8)), small, ())


def test_a_number_that_is_hardly_out_of_range_is_told_as_such() -> None:
    with pytest.raises(InvalidRequestError, match=r"must be in \[0, 1\], got 1.00000011"):
        check_fields(router_pb2.GenerateRequest(text="x", **sampling_of(top_p=1 + 1e-7)), MODEL, ())
    with pytest.raises(InvalidRequestError, match=r"must be in \[-100, 100\], got 100.0000"):
        check_fields(router_pb2.GenerateRequest(text="x", **sampling_of(logit_bias={1: 100.00001})), MODEL, ())


async def test_what_other_systems_clients_send_is_taken() -> None:
    sampling = (await checked_of(**sampling_of(temperature=1, top_p=0, top_k=7))).request.sampling
    assert (sampling.top_k, sampling.top_p) == (1, 1.0)
    assert (await checked_of(**sampling_of(top_k=2**32 - 1))).request.sampling.top_k == 0
    checked = await checked_of(stop=["a", "b", "a"], speculation=router_pb2.SpeculationOptions(ssms=["lookup"] * 2))
    assert checked.stop_texts == ("a", "b")
    assert checked.request.speculation.ssms == ("lookup",)


async def test_defaults_are_filled_in() -> None:
    checked = await checked_of(stop=["\n"])
    request = checked.request
    assert request.prompt_token_ids == tuple(b"hello")
    assert request.max_tokens == CONTEXT_LEN - 5
    assert request.sampling.stop_token_ids == (EOS,)
    assert request.sampling.top_p == request.sampling.repetition_penalty == 1.0
    assert request.sampling.seed != (await checked_of()).request.sampling.seed
    assert checked.stop_texts == ("\n",)
    assert (await checked_of(ignore_eos=True)).request.sampling.stop_token_ids == ()
    assert (await checked_of(**sampling_of(seed=0))).request.sampling.seed == 0


async def test_limits_themselves_are_allowed() -> None:
    await checked_of(max_tokens=CONTEXT_LEN - 5, stop=["x" * 256] * 16)
    await checked_of(**ids_of(*[0] * (CONTEXT_LEN - 1)))
    await checked_of(**sampling_of(temperature=100, top_p=1, min_p=1, repetition_penalty=10, presence_penalty=2))
    await checked_of(**sampling_of(num_log_probs=20, logit_bias={0: -100.0, VOCAB_SIZE - 1: 100.0}))


def test_names_of_ssms_are_judged_when_all_services_have_told_theirs() -> None:
    named = router_pb2.GenerateRequest(text="x", speculation=router_pb2.SpeculationOptions(ssms=["lookup"]))
    check_fields(named, MODEL, None)
    check_fields(named, MODEL, ("demo", "lookup"))
    with pytest.raises(InvalidRequestError, match="unknown SSM 'lookup'"):
        check_fields(named, MODEL, ("demo",))
