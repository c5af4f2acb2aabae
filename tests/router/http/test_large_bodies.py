"""What a body may hold, and that large ones come one after another: counted, not timed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import router.http.converting
from router.json_values import MarksOutsideTexts, num_marks
from tests.router.http.asking import ask, http_suite
from tests.router.test_text_work import TOKENIZER


async def test_a_body_of_too_many_values_is_refused_and_a_text_with_many_commas_is_not() -> None:
    async with http_suite() as suite:
        reply = await ask(suite, "/v1/completions", {"prompt": [1] * 140_000})
        assert (reply.status, reply.json["error"]["message"]) == (400, "request: the body has more than 131072 values")
        # Too long for the toy, which is what its text is refused for.
        reply = await ask(suite, "/v1/completions", {"prompt": ",:" * 70_000 + '"\\'})
        assert reply.status == 400
        assert "cannot fit" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("content", "num_outside"),
    [
        (b'{"a": [1, 2], "b": {}}', 4),
        (b'{"a,:": ",,,\\",:", "b": 1}', 3),
        (b'["\\\\", 1, "\\\\\\"," , 2]', 3),
        (b'["never, ended', 0),
    ],
)
def test_marks_are_counted_outside_of_texts(content: bytes, num_outside: int) -> None:
    assert MarksOutsideTexts(content)(TOKENIZER) == num_outside
    assert num_marks(content) >= num_outside


async def test_large_bodies_are_converted_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = 0, 0
    in_thread = asyncio.to_thread

    async def counted(convert: Callable[[], Any]) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        found = await in_thread(convert)
        under_way -= 1
        return found

    monkeypatch.setattr(router.http.converting.asyncio, "to_thread", counted)
    async with http_suite() as suite:
        body = {"prompt": ["x" * 3000] * 12, "max_tokens": 1}
        replies = await asyncio.gather(*(ask(suite, "/v1/completions", body) for _ in range(4)))
    assert [reply.status for reply in replies] == [400] * 4 or [reply.status for reply in replies] == [200] * 4
    assert most == 1
