"""Large bodies that are no JSON: reading holds the router's loop up, so it is done once."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import Request

from router.http.large_bodies import LARGE_BYTES
from tests.router.http.asking import ask, http_suite


@pytest.mark.parametrize(
    ("begins", "told"),
    [(b'{"prompt": "', "Unterminated string"), (b"[" * 100_000, "nested too deeply")],
)
async def test_a_large_body_that_is_no_json_is_read_once(
    begins: bytes, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_reads, read = 0, Request.json

    async def reading(request: Request) -> Any:
        nonlocal num_reads
        num_reads += 1
        return await read(request)

    monkeypatch.setattr(Request, "json", reading)
    async with http_suite() as suite:
        reply = await ask(suite, "/v1/completions", begins + b"x" * LARGE_BYTES)
    assert reply.status == 400
    assert told in reply.error["message"]
    assert num_reads == 1
