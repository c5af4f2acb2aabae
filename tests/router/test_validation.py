"""Each wrong value names its field; several are all named."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import replace
from typing import Any

import pytest

from router.served_model import ServedModel
from router.structure_check import StructureCheck
from router.text_work import TextWork
from router.validation import CheckedRequest, check_fields, checked_detokenize, checked_request, checked_tokenize
from specgrove.errors import InvalidRequestError
from specgrove.structured_output import StructuredOutput, StructureKind
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2, token_tree_pb2
from tests.router.toy_language import CHAT_TEMPLATE, EOS, VOCAB_SIZE, toy_tokenizer_json
from tests.router.toy_services import CONTEXT_LEN

TOKENIZER = Tokenizer(toy_tokenizer_json(), json.loads('{"eos_token": "<eos>"}'), CHAT_TEMPLATE)
MODEL = ServedModel("toy", "Toy", VOCAB_SIZE, CONTEXT_LEN, "float32", (EOS,), 64, TOKENIZER, (EOS, 10))


async def _checked(**fields: Any) -> CheckedRequest:
    if not {"text", "chat", "token_ids", "no_prompt"} & fields.keys():
        fields["text"] = "hello"
    fields.pop("no_prompt", None)
    proto = router_pb2.GenerateRequest(**fields)
    check_fields(proto, MODEL, ("lookup",))
    return await checked_request(proto, MODEL, TextWork(), StructureCheck(TextWork()), session_id="s", deadline_s=None)


def _sampling(**fields: Any) -> dict[str, Any]:
    return {"sampling": token_tree_pb2.SamplingParams(**fields)}


def _structured(**fields: Any) -> dict[str, Any]:
    return _sampling(structured_output=token_tree_pb2.StructuredOutput(**fields))


def _chat(*messages: tuple[str, str]) -> dict[str, Any]:
    return {"chat": router_pb2.Chat(messages=[router_pb2.ChatMessage(role=r, content=c) for r, c in messages])}


def _chat_with(**fields: Any) -> dict[str, Any]:
    return {"chat": router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="hi")], **fields)}


def _ids(*token_ids: int) -> dict[str, Any]:
    return {"token_ids": router_pb2.TokenIds(token_ids=token_ids)}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"no_prompt": True}, "prompt"),
    ({"text": ""}, "text"),
    ({"text": "x" * CONTEXT_LEN}, "text"),
    ({"text": "x" * 1_000_000}, "text"),
    (_chat(), "chat.messages"),
    (_chat(("user", "hi"), ("", "hi")), "chat.messages[1].role"),
    (_chat(("user", "hi"), ("<|im_end|>", "hi")), "chat.messages[1].role"),
    (_chat(("user", "hi"), ("r" * 65, "hi")), "chat.messages[1].role"),
    (_chat(*[("user", "")] * 4097), "chat.messages"),
    *[
        (_chat_with(chat_template_kwargs_json=text), "chat.chat_template_kwargs_json")
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
    (_chat_with(add_generation_prompt=True, continue_final_message=True), "chat.add_generation_prompt"),
    (
        {"chat": {"messages": [{"role": "user", "attributes_json": '{"content": 1}'}]}},
        "chat.messages[0].attributes_json",
    ),
    ({"chat": {"messages": [{"role": "user", "attributes_json": "x"}]}}, "chat.messages[0].attributes_json"),
    (_chat(("user", "x" * 1_000_000)), "chat"),
    (_ids(), "token_ids.token_ids"),
    (_ids(1, VOCAB_SIZE), "token_ids.token_ids"),
    (_ids(*[1] * (CONTEXT_LEN + 1)), "token_ids"),
    ({"model": "gpt"}, "model"),
    ({"max_tokens": CONTEXT_LEN}, "max_tokens"),
    (_sampling(temperature=-1), "sampling.temperature"),
    (_sampling(temperature=math.nan), "sampling.temperature"),
    (_sampling(temperature=math.inf), "sampling.temperature"),
    (_sampling(temperature=101), "sampling.temperature"),
    (_sampling(top_p=-0.01), "sampling.top_p"),
    (_sampling(top_p=1.01), "sampling.top_p"),
    (_sampling(top_p=math.nan), "sampling.top_p"),
    (_sampling(min_p=-0.1), "sampling.min_p"),
    (_sampling(min_p=1.1), "sampling.min_p"),
    (_sampling(repetition_penalty=0), "sampling.repetition_penalty"),
    (_sampling(repetition_penalty=11), "sampling.repetition_penalty"),
    (_sampling(presence_penalty=-2.1), "sampling.presence_penalty"),
    (_sampling(frequency_penalty=2.1), "sampling.frequency_penalty"),
    (_sampling(logit_bias={VOCAB_SIZE: 1.0}), "sampling.logit_bias"),
    (_sampling(logit_bias={1: 101.0}), "sampling.logit_bias"),
    (_sampling(logit_bias={1: math.nan}), "sampling.logit_bias"),
    (_sampling(logit_bias=dict.fromkeys(range(1025), 0.0)), "sampling.logit_bias"),
    (_sampling(stop_token_ids=[VOCAB_SIZE]), "sampling.stop_token_ids"),
    (_sampling(stop_token_ids=range(65)), "sampling.stop_token_ids"),
    (_sampling(num_log_probs=21), "sampling.num_log_probs"),
    (_sampling(min_tokens=9) | {"max_tokens": 8}, "sampling.min_tokens"),
    (_structured(), "sampling.structured_output"),
    (_structured(json_object=False), "sampling.structured_output"),
    (_structured(json_schema="{"), "sampling.structured_output.json_schema"),
    (_structured(json_schema="[]"), "sampling.structured_output.json_schema"),
    (_structured(json_schema='{"a": NaN}'), "sampling.structured_output.json_schema"),
    (_structured(json_schema='{"a": ' + "[" * 60_000), "sampling.structured_output.json_schema"),
    (_structured(json_schema='{"type": "objekt"}'), "sampling.structured_output.json_schema"),
    (_structured(json_schema='{"a": "' + "x" * 65_536 + '"}'), "sampling.structured_output.json_schema"),
    (_structured(regex=""), "sampling.structured_output.regex"),
    (_structured(regex="(a"), "sampling.structured_output.regex"),
    (_structured(choice={"texts": []}), "sampling.structured_output.choice"),
    (_structured(choice={"texts": ["a"] * 1025}), "sampling.structured_output.choice"),
    (_structured(grammar="start: x"), "sampling.structured_output.grammar"),
    (_structured(json_object=True) | {"ignore_eos": True}, "ignore_eos"),
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
        await _checked(**fields)
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
    proto = router_pb2.GenerateRequest(text="hello", **_structured(regex="[a-z]+"))

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
    proto = router_pb2.GenerateRequest(text="hello", **_structured(json_object=True))
    with pytest.raises(InvalidRequestError, match=r"structured_output: needs a token .* give stop_token_ids"):
        await checked_request(proto, endless, TextWork(), StructureCheck(TextWork()), session_id="s", deadline_s=None)


async def test_all_violations_are_told_at_once() -> None:
    with pytest.raises(InvalidRequestError) as info:
        await _checked(model="gpt", text="", stop=[""], **_sampling(temperature=-1, top_p=2, num_log_probs=99))
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
    request = router_pb2.TokenizeRequest(**_chat(("user", "hi")))
    assert await checked_tokenize(request, without, TextWork()) == ()
    proto = router_pb2.GenerateRequest(**_chat(("user", "hi")))
    with pytest.raises(InvalidRequestError, match="chat: has no tokens"):
        await checked_request(proto, without, TextWork(), StructureCheck(TextWork()), session_id="s", deadline_s=None)


async def test_stop_texts_that_are_special_tokens_are_stop_tokens() -> None:
    checked = await _checked(stop=["<eos>", "eos", "<eos> "], ignore_eos=True)
    assert checked.request.sampling.stop_token_ids == (EOS,)
    assert checked.stop_text_of_token == {EOS: "<eos>"}
    # An ordinary token of that text may be a part of others, or come about from them.
    assert (await _checked(stop=["a"], ignore_eos=True)).request.sampling.stop_token_ids == ()
    # One that only the tokenizer has: the LLM service would refuse its id.
    small = replace(MODEL, vocab_size=EOS)
    proto = router_pb2.GenerateRequest(text="hello", stop=["<eos>"], ignore_eos=True)
    checked = await checked_request(
        proto, small, TextWork(), StructureCheck(TextWork()), session_id="s", deadline_s=None
    )
    assert (checked.stop_text_of_token, checked.request.sampling.stop_token_ids) == ({}, ())


async def test_no_more_log_probabilities_are_asked_for_than_there_are_tokens() -> None:
    small = replace(MODEL, vocab_size=7)
    check_fields(router_pb2.GenerateRequest(text="x", **_sampling(num_log_probs=7)), small, ())
    with pytest.raises(InvalidRequestError, match=r"sampling.num_log_probs: must be at most 7, got 8"):
        check_fields(router_pb2.GenerateRequest(text="x", **_sampling(num_log_probs=8)), small, ())


async def test_templates_get_values_in_their_order() -> None:
    """A Struct loses it, and gave another prompt in each process."""
    text = '{"type": "function", "name": "f", "b": [0.5, {"z": -2, "a": null, "m": 3.0}], "id": 12345678901234567890, "\\ud83d\\ude00": ""}'
    model = replace(
        MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, "{{ tool | tojson }}{{ messages[0].call | tojson }}")
    )
    message = router_pb2.ChatMessage(role="user", attributes_json=f'{{"call": {text}}}')
    chat = router_pb2.Chat(messages=[message], chat_template_kwargs_json=f'{{"tool": {text}}}')
    token_ids = await checked_tokenize(router_pb2.TokenizeRequest(chat=chat), model, TextWork())
    assert bytes(token_ids).decode() == text.replace("\\ud83d\\ude00", "\U0001f600") * 2


def test_a_number_that_is_hardly_out_of_range_is_told_as_such() -> None:
    with pytest.raises(InvalidRequestError, match=r"must be in \[0, 1\], got 1.00000011"):
        check_fields(router_pb2.GenerateRequest(text="x", **_sampling(top_p=1 + 1e-7)), MODEL, ())
    with pytest.raises(InvalidRequestError, match=r"must be in \[-100, 100\], got 100.0000"):
        check_fields(router_pb2.GenerateRequest(text="x", **_sampling(logit_bias={1: 100.00001})), MODEL, ())


async def test_what_other_systems_clients_send_is_taken() -> None:
    sampling = (await _checked(**_sampling(temperature=1, top_p=0, top_k=7))).request.sampling
    assert (sampling.top_k, sampling.top_p) == (1, 1.0)
    assert (await _checked(**_sampling(top_k=2**32 - 1))).request.sampling.top_k == 0
    checked = await _checked(stop=["a", "b", "a"], speculation=router_pb2.SpeculationOptions(ssms=["lookup"] * 2))
    assert checked.stop_texts == ("a", "b")
    assert checked.request.speculation.ssms == ("lookup",)


async def _prompt_of(**chat: Any) -> str:
    return bytes((await _checked(chat=router_pb2.Chat(**chat))).request.prompt_token_ids).decode()


async def test_the_template_decides_on_roles_and_sees_all_of_a_message() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": ""},
        {"role": "tool", "content": "42", "attributes_json": '{"name": "sum", "count": 3}'},
    ]
    template = "{% for m in messages %}[{{ m.role }} {{ m.name }}{{ m.count }}]{{ m.content }}{% endfor %}"
    model = replace(MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, template))
    proto = router_pb2.GenerateRequest(chat=router_pb2.Chat(messages=messages))
    check_fields(proto, model, ())
    checked = await checked_request(
        proto, model, TextWork(), StructureCheck(TextWork()), session_id="s", deadline_s=None
    )
    assert bytes(checked.request.prompt_token_ids) == b"[developer ]be brief[user ][tool sum3]42"


async def test_the_template_gets_its_variables() -> None:
    template = "{% if thinking is defined and not thinking %}quick{{ depth }}{{ share }}{% endif %}-"
    model = replace(MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, template))
    proto = router_pb2.GenerateRequest(
        **_chat_with(chat_template_kwargs_json='{"thinking": false, "depth": 3, "share": 0.5}')
    )
    checked = await checked_request(
        proto, model, TextWork(), StructureCheck(TextWork()), session_id="s", deadline_s=None
    )
    assert bytes(checked.request.prompt_token_ids) == b"quick30.5-"


async def test_an_assistants_message_is_continued() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello, "}]
    assert await _prompt_of(messages=messages) == "[user]hi[assistant]Hello, [assistant]"
    assert await _prompt_of(messages=messages, continue_final_message=True) == "[user]hi[assistant]Hello, "


async def test_defaults_are_filled_in() -> None:
    checked = await _checked(stop=["\n"])
    request = checked.request
    assert request.prompt_token_ids == tuple(b"hello")
    assert request.max_tokens == CONTEXT_LEN - 5
    assert request.sampling.stop_token_ids == (EOS,)
    assert request.sampling.top_p == request.sampling.repetition_penalty == 1.0
    assert request.sampling.seed != (await _checked()).request.sampling.seed
    assert checked.stop_texts == ("\n",)
    assert (await _checked(ignore_eos=True)).request.sampling.stop_token_ids == ()
    assert (await _checked(**_sampling(seed=0))).request.sampling.seed == 0


async def test_an_answer_in_a_conversation_has_ends_of_its_own() -> None:
    assert (await _checked(**_chat(("user", "hi")))).request.sampling.stop_token_ids == (EOS, 10)
    ignoring = await _checked(**_chat(("user", "hi")), ignore_eos=True)
    assert ignoring.request.sampling.stop_token_ids == ()


async def test_limits_themselves_are_allowed() -> None:
    await _checked(max_tokens=CONTEXT_LEN - 5, stop=["x" * 256] * 16)
    await _checked(**_ids(*[0] * (CONTEXT_LEN - 1)))
    await _checked(**_sampling(temperature=100, top_p=1, min_p=1, repetition_penalty=10, presence_penalty=2))
    await _checked(**_sampling(num_log_probs=20, logit_bias={0: -100.0, VOCAB_SIZE - 1: 100.0}))
