"""A client that hangs up ends its requests, whatever they wait for."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from tests.router.http.asking import PROMPT, api_of, http_address, http_suite, opened
from tests.router.toy_services import halting_llm
from tests.waiting import LIMIT_S, until


@pytest.mark.parametrize("num_steps", [0, 3])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_hanging_up_cancels(is_stream: bool, n: int, num_steps: int) -> None:
    async with http_suite(halting_llm(num_steps)) as suite:
        body = {"prompt": PROMPT, "max_tokens": 50, "stream": is_stream, "n": n}
        reader, writer = await opened(suite, "/v1/completions", json.dumps(body).encode())
        await until(lambda: suite.llm.num_verified >= n * num_steps and len(suite.llm.sessions) == n)
        if is_stream and num_steps:
            async with asyncio.timeout(LIMIT_S):
                assert await reader.readuntil(b"data: {")
        writer.transport.abort()
        await until(lambda: not suite.llm.sessions and suite.app.admission.num_active == 0)
        await until(lambda: not suite.ssm.sessions)


async def test_a_client_that_waits_for_its_turn_may_hang_up() -> None:
    async with http_suite(halting_llm(1), max_num_requests=1) as suite:
        body = json.dumps({"prompt": PROMPT, "max_tokens": 50}).encode()
        _, first = await opened(suite, "/v1/completions", body)
        await until(lambda: suite.app.admission.num_active == 1)
        _, second = await opened(suite, "/v1/completions", body)
        await until(lambda: suite.app.admission.num_queued == 1)
        second.transport.abort()
        await until(lambda: suite.app.admission.num_queued == 0)
        first.transport.abort()
        await until(lambda: suite.app.admission.num_active == 0)


async def test_openais_client_cancels_by_leaving_its_loop() -> None:
    async with http_suite(halting_llm(4)) as suite, api_of(suite) as api:
        chunks: Any = await api.completions.create(model="toy", prompt=PROMPT, max_tokens=50, stream=True)
        async with chunks:
            async for _ in chunks:
                break
        await until(lambda: not suite.llm.sessions and suite.app.admission.num_active == 0)


async def test_a_client_that_reads_nothing_loses_its_request() -> None:
    async with http_suite(reader_timeout_s=0.05) as suite:
        body = {"prompt": PROMPT, "max_tokens": 400, "stream": True, "logprobs": 20}
        content = json.dumps(body).encode()
        host, port = http_address(suite).split(":")
        assert suite.app.http is not None
        assert suite.app.http._socket is not None
        suite.app.http._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # of connections to come
        with socket.socket() as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            unread.connect((host, int(port)))
            head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            unread.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            await until(lambda: suite.llm.num_verified > 0)
            await until(lambda: not suite.llm.sessions and suite.app.admission.num_active == 0)
            # Not because the outputs had ended.
            assert suite.llm.num_verified < 400
