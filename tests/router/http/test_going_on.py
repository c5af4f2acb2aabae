"""How a program goes on with a stream that broke off, as docs/http.md shows it."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from router.http.answers import StreamedAnswer
from tests.router.http.asking import http_address, text_of
from tests.router.toy_suite import ToySuite
from tests.waiting import LIMIT_S

PAGE = Path(__file__).parents[3] / "docs" / "http.md"


@pytest.mark.parametrize("is_told", [True, False])
async def test_what_came_is_left_out_when_it_is_asked_again(
    suite: ToySuite, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    (program,) = re.findall(r"```python\n(def answer_in_pieces.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"openai": openai, "httpx": httpx, "time": time}
    exec(program, names)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    write = StreamedAnswer._write
    num_left = [3, 5, 1000]  # chunks of each try

    async def break_off(self: StreamedAnswer, send: Any, content: bytes, *, has_more: bool = True) -> None:
        if num_left[0] == 0:
            del num_left[0]
            if is_told:
                raise RuntimeError("a defect")
            # The server closes the connection of an answer that ends too early.
            raise asyncio.CancelledError
        num_left[0] -= 1
        await write(self, send, content, has_more=has_more)

    monkeypatch.setattr(StreamedAnswer, "_write", break_off)

    def ask() -> list[str]:
        with openai.OpenAI(base_url=f"http://{http_address(suite)}/v1", api_key="none", timeout=LIMIT_S) as client:
            asked = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 20}
            return list(names["answer_in_pieces"](client, **asked))

    pieces = await asyncio.to_thread(ask)
    assert "".join(pieces) == text_of(7, prompt="[user]hi[assistant]")
    assert len(num_left) == 1
