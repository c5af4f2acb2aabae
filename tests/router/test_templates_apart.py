"""Chat templates run where they can be ended, and short conversations wait for no long text."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from typing import NoReturn

import pytest

from router.text_work import TextWork
from specgrove.errors import InternalError
from specgrove.tokenizer import Tokenizer
from tests.router.test_text_work import LONG, SHORT, TEMPLATE, TOKENIZER, hang, pid, priorities
from tests.router.toy_language import toy_tokenizer_json

# Bounded neither by the sandbox nor by what they write: loops that write nothing, and single operations.
ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set x = (messages | length + 9) ** 99999999 %}",
    "{% set x = messages[0].content.ljust(messages | length + 9) * 9999999999 %}",
)


@pytest.mark.parametrize("source", ENDLESS)
async def test_a_template_without_end_is_ended_and_others_go_on(source: str) -> None:
    conversation = [{"role": "user", "content": "stop"}]
    encode = functools.partial(Tokenizer.encode_chat, messages=conversation)
    template = "{% if messages[0].content == 'stop' %}" + source + "{% endif %}" + TEMPLATE
    tokenizer = Tokenizer(toy_tokenizer_json(), {"eos_token": "<eos>"}, template)
    texts = TextWork(limit_s=0.5, renders_apart=True)
    await texts.prepare(tokenizer)
    with pytest.raises((InternalError, ValueError), match=r"within 0\.5 s|MemoryError"):
        await texts.run_chat(tokenizer, SHORT, encode)
    usual = functools.partial(Tokenizer.encode_chat, messages=[{"role": "user", "content": "b"}])
    assert await texts.run_chat(tokenizer, SHORT, usual) == TOKENIZER.encode("b<eos>")
    texts.close()


async def test_what_hinders_the_process_for_conversations_is_told_and_ends_no_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    texts = TextWork(renders_apart=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/no/such/python")
        await texts.prepare(TOKENIZER)
    assert "the process for short conversations can't be started: " in caplog.text
    caplog.clear()
    monkeypatch.setattr(Tokenizer, "__reduce_ex__", refuse_to_be_pickled)
    await texts.prepare(TOKENIZER)
    assert "conversations can't be rendered: TypeError: it can't be pickled" in caplog.text
    monkeypatch.undo()
    assert await texts.run_chat(TOKENIZER, SHORT, pid) != os.getpid()
    texts.close()


def refuse_to_be_pickled(tokenizer: Tokenizer, protocol: int) -> NoReturn:
    raise TypeError("it can't be pickled")


async def test_short_conversations_have_a_process_of_usual_priority_and_wait_for_no_long_text() -> None:
    texts = TextWork(renders_apart=True)
    await texts.prepare(TOKENIZER)
    long = asyncio.create_task(texts.run(TOKENIZER, LONG, hang))
    own = await texts.run_chat(TOKENIZER, SHORT, pid)
    assert own != os.getpid()
    assert (await texts.run_chat(TOKENIZER, SHORT, priorities))[0] == os.getpriority(os.PRIO_PROCESS, 0)
    assert not long.done()
    texts.close()
    await asyncio.gather(long, return_exceptions=True)
