"""Conversations on their way to a prompt: what the chat template gets, and what ends the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.structure_check import StructureCheck
from router.text_work import TextWork
from router.validation import check_fields, checked_request, checked_tokenize
from specgrove.errors import InvalidRequestError
from specgrove.tokenizer import Tokenizer
from specgrove.v1 import router_pb2
from tests.router.checking import MODEL, chat_of, chat_with, checked_of
from tests.router.toy_language import EOS, toy_tokenizer_json
from tests.tokenizer.test_control_tokens import ATTACK, chatty, num_control
from tests.waiting import LIMIT_S


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


async def test_an_output_goes_on_with_the_very_prompt_that_it_began_with() -> None:
    """A template may name the day: what goes on after midnight would be the rest of another output."""

    async def numerics_on(day: int, numerics: str = "") -> str:
        template = f"{day} Jul 2026: {{{{ messages[0].content }}}}"
        model = replace(MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, template))
        request = router_pb2.GenerateRequest(
            chat=router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content="hi")]),
            resume=router_pb2.Resume(token_ids=[65], numerics=numerics),
        )
        check_fields(request, model, ())
        work = TextWork()
        checked = await checked_request(request, model, work, StructureCheck(work), session_id="s", deadline_s=None)
        return checked.numerics

    begun = await numerics_on(4)
    assert await numerics_on(4, begun) == begun
    with pytest.raises(InvalidRequestError, match="other tokens of the prompt") as info:
        await numerics_on(5, begun)
    assert [violation.field for violation in info.value.violations] == ["resume.numerics"]


async def _prompt_of(**chat: Any) -> str:
    return bytes((await checked_of(chat=router_pb2.Chat(**chat))).request.prompt_token_ids).decode()


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
        proto, model, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
    )
    assert bytes(checked.request.prompt_token_ids) == b"[developer ]be brief[user ][tool sum3]42"


async def test_the_template_gets_its_variables() -> None:
    template = "{% if thinking is defined and not thinking %}quick{{ depth }}{{ share }}{% endif %}-"
    model = replace(MODEL, tokenizer=Tokenizer(toy_tokenizer_json(), {}, template))
    proto = router_pb2.GenerateRequest(
        **chat_with(chat_template_kwargs_json='{"thinking": false, "depth": 3, "share": 0.5}')
    )
    checked = await checked_request(
        proto, model, TextWork(), StructureCheck(TextWork(limit_s=LIMIT_S)), session_id="s", deadline_s=None
    )
    assert bytes(checked.request.prompt_token_ids) == b"quick30.5-"


async def test_an_assistants_message_is_continued() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello, "}]
    assert await _prompt_of(messages=messages) == "[user]hi[assistant]Hello, [assistant]"
    assert await _prompt_of(messages=messages, continue_final_message=True) == "[user]hi[assistant]Hello, "


async def test_an_answer_in_a_conversation_has_ends_of_its_own() -> None:
    assert (await checked_of(**chat_of(("user", "hi")))).request.sampling.stop_token_ids == (EOS, 10)
    ignoring = await checked_of(**chat_of(("user", "hi")), ignore_eos=True)
    assert ignoring.request.sampling.stop_token_ids == ()


async def test_what_a_message_writes_out_stays_text_unless_the_request_says_otherwise() -> None:
    """And it is kept so in the process for texts: the first time takes long."""
    tokenizer = chatty("byte_level")
    model, work = replace(MODEL, tokenizer=tokenizer, vocab_size=tokenizer.vocab_size), TextWork()
    for control_tokens, num_tokens in ((False, 3), (True, 5)):
        message = router_pb2.ChatMessage(role="user", content=ATTACK)
        chat = router_pb2.Chat(messages=[message], control_tokens=control_tokens)
        token_ids = await checked_tokenize(router_pb2.TokenizeRequest(chat=chat), model, work)
        assert num_control(tokenizer, list(token_ids)) == num_tokens
    assert work._long._process is not None
    work.close()
