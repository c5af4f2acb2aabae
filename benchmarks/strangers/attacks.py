"""Requests that take a router as much work as a client can make it do, by kind. Sent by a process of their own.

    python -m benchmarks.strangers.attacks KIND GRPC_ADDRESS HTTP_URL SECONDS

It prints how many requests were answered, and how: all of them are meant, the refused ones too.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import httpx

from specgrove.addresses import grpc_target
from specgrove.v1 import router_pb2, token_tree_pb2

_WORDS = ("tree", "grove", "speculative", "verification", "a", "of", "Baum", "\u6811", "lorem", "12345", "})]")
_MIB = 1 << 20
# Of the largest message, what is left for a text.
_LONG = _MIB - 1024
_MAX_SHORT_LEN = 4000


@dataclass(frozen=True, slots=True)
class Attack:
    """``num_at_once`` clients send what ``make`` gives, each the next when it has its answer."""

    what: str
    num_at_once: int
    path: str
    make: Callable[[], Any]


def _words(num_bytes: int) -> str:
    words = random.choices(_WORDS, k=num_bytes // 3)
    return " ".join(words).encode()[:num_bytes].decode(errors="ignore")


def _generate(**fields: Any) -> router_pb2.GenerateRequest:
    return router_pb2.GenerateRequest(**{"max_tokens": 1, **fields})


def _ids(num: int) -> router_pb2.TokenIds:
    return router_pb2.TokenIds(token_ids=[40 + i % 50 for i in range(num)])


def _chat(num_messages: int, num_bytes: int) -> router_pb2.Chat:
    text = _words(num_bytes // num_messages)
    return router_pb2.Chat(messages=[router_pb2.ChatMessage(role="user", content=text)] * num_messages)


def ambiguous_grammar() -> str:
    """In which a text of n letters is written in very many ways: 200 rules of 10 alternatives."""
    rules = (
        f"r{i}: " + " | ".join(f"r{random.randrange(200)} r{random.randrange(200)}" for _ in range(10)) + ' | "a"'
        for i in range(200)
    )
    return "start: r0\n" + "\n".join(rules)


def intricate_schema() -> str:
    """Of 60 fields with a pattern."""
    fields = {f"f{random.randrange(10**6)}": {"type": "string", "pattern": "(a|b|cd)*[0-9]{1,50}"} for _ in range(60)}
    return json.dumps({"type": "object", "properties": fields, "required": list(fields)})


def _grammar() -> token_tree_pb2.SamplingParams:
    return token_tree_pb2.SamplingParams(structured_output=token_tree_pb2.StructuredOutput(grammar=ambiguous_grammar()))


def _schema() -> token_tree_pb2.SamplingParams:
    schema = intricate_schema()
    return token_tree_pb2.SamplingParams(structured_output=token_tree_pb2.StructuredOutput(json_schema=schema))


def _bias() -> token_tree_pb2.SamplingParams:
    return token_tree_pb2.SamplingParams(logit_bias=dict.fromkeys(range(300), 1.0), stop_token_ids=list(range(64)))


def _body(**fields: Any) -> bytes:
    return json.dumps({"max_tokens": 1, **fields}).encode()


_KEYS = json.dumps({f"{number:x}": 1 for number in range(80_000)}).encode()
_DEEP = b'{"prompt": ' + b"[" * 400_000 + b"]" * 400_000 + b"}"
_GENERATE, _TOKENIZE, _DETOKENIZE = (
    f"/specgrove.v1.RouterService/{name}" for name in ("Generate", "Tokenize", "Detokenize")
)
ATTACKS: dict[str, Attack] = {
    "text": Attack("texts of 1 MiB", 4, _GENERATE, lambda: _generate(text=_words(_LONG))),
    "text-run": Attack("1 MiB of one letter", 4, _GENERATE, lambda: _generate(text="a" * _LONG)),
    "text-short": Attack("texts of 4 kB", 32, _GENERATE, lambda: _generate(text=_words(_MAX_SHORT_LEN))),
    "digits-short": Attack("4 kB of digits", 32, _GENERATE, lambda: _generate(text="1" * _MAX_SHORT_LEN)),
    "ids": Attack("90,000 token ids", 8, _GENERATE, lambda: _generate(token_ids=_ids(90_000))),
    "resume": Attack(
        "outputs that go on behind 90,000 tokens", 4, _GENERATE,
        lambda: _generate(token_ids=_ids(9), resume=router_pb2.Resume(token_ids=[40 + i % 50 for i in range(90_000)]),
                          max_tokens=90_001, stop=["zz", "yy", "xx"]),
    ),
    "chat": Attack("conversations of 4,000 messages", 8, _GENERATE, lambda: _generate(chat=_chat(4000, 900_000))),
    "chat-short": Attack("conversations of 100 messages, 4 kB", 32, _GENERATE, lambda: _generate(chat=_chat(100, 700))),
    "schema": Attack("JSON schemas of 60 patterns", 8, _GENERATE, lambda: _generate(text="x", sampling=_schema())),
    "grammar": Attack(
        "ambiguous grammars of 200 rules", 8, _GENERATE, lambda: _generate(text="x", sampling=_grammar())
    ),
    "bias": Attack("300 biases, 64 stop tokens", 32, _GENERATE, lambda: _generate(text="x", sampling=_bias())),
    "log-probs": Attack(
        "20 log-probabilities at each of 20,000 tokens of a prompt", 2, _GENERATE,
        lambda: _generate(token_ids=_ids(20_000), num_prompt_log_probs=20, prompt_only=True, max_tokens=0),
    ),
    "tokenize": Attack("texts of 1 MiB to tokenise", 8, _TOKENIZE, lambda: router_pb2.TokenizeRequest(text=_words(_LONG))),
    "detokenize": Attack(
        "60,000 tokens to detokenise", 8, _DETOKENIZE, lambda: router_pb2.DetokenizeRequest(token_ids=_ids(60_000).token_ids)
    ),
    "flood": Attack("refused requests", 1000, _GENERATE, lambda: _generate(text="x", max_tokens=10**9)),
    "http-ids": Attack("by HTTP, 250,000 token ids", 4, "/v1/completions", lambda: _body(prompt=[40] * 250_000)),
    "http-text": Attack("by HTTP, texts of 1 MiB", 4, "/v1/completions", lambda: _body(prompt=_words(_LONG // 2))),
    "http-chat": Attack(
        "by HTTP, 4,000 messages", 4, "/v1/chat/completions",
        lambda: _body(messages=[{"role": "user", "content": _words(100)}] * 4000),
    ),
    "http-many": Attack(
        "by HTTP, 300,000 empty objects", 4, "/v1/chat/completions", lambda: b'{"messages": [' + b"{}," * 300_000 + b"{}]}"
    ),
    "http-keys": Attack("by HTTP, 80,000 fields", 4, "/v1/completions", lambda: _KEYS),
    "http-deep": Attack("by HTTP, 400,000 brackets", 4, "/v1/completions", lambda: _DEEP),
    "http-tools": Attack(
        "by HTTP, tools of 900 kB", 4, "/v1/chat/completions",
        lambda: _body(messages=[{"role": "user", "content": "x"}],
                      tools=[{"type": "function", "function": {"name": f"f{i}", "parameters": {"type": "object"}}} for i in range(9000)]),
    ),
    "http-strings": Attack(
        "by HTTP, the texts of 60,000 tokens", 4, "/tokenize", lambda: _body_of_tokenize(_words(90_000)),
    ),
    "http-log-probs": Attack(
        "by HTTP, 20 log-probabilities at each of 20,000 tokens of a prompt", 2, "/v1/completions",
        lambda: _body(prompt=[40 + i % 50 for i in range(20_000)], prompt_logprobs=20, max_tokens=0),
    ),
    "http-flood": Attack("by HTTP, refused requests", 300, "/v1/completions", lambda: _body(prompt="x", max_tokens=10**9)),
}  # fmt: skip


def _body_of_tokenize(text: str) -> bytes:
    return json.dumps({"prompt": text, "return_token_strs": True}).encode()


async def attack(kind: str, address: str, http_url: str, seconds: float) -> Counter[str]:
    """How the requests ended, by status."""
    chosen, outcomes, until_s = ATTACKS[kind], Counter[str](), time.monotonic() + seconds
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    limits = httpx.Limits(max_connections=chosen.num_at_once)
    async with (
        grpc.aio.insecure_channel(grpc_target(address), options=options) as channel,
        httpx.AsyncClient(base_url=http_url, timeout=20, limits=limits) as client,
    ):
        # Made once: what is sent costs this process as little as may be.
        contents = [_bytes_of(chosen.make()) for _ in range(4)]

        async def by_grpc(content: bytes) -> str:
            try:
                if chosen.path == _GENERATE:
                    stream: Any = channel.unary_stream(chosen.path)
                    async for _ in stream(content, timeout=20):
                        pass
                else:
                    call: Any = channel.unary_unary(chosen.path)
                    await call(content, timeout=20)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        async def by_http(content: bytes) -> str:
            try:
                answer = await client.post(chosen.path, content=content, headers={"content-type": "application/json"})
            except httpx.TimeoutException:
                return "timed out"
            return str(answer.status_code)

        send: Callable[[bytes], Awaitable[str]] = by_grpc if chosen.path.startswith("/specgrove") else by_http

        async def go_on(number: int) -> None:
            while time.monotonic() < until_s:
                outcomes[await send(contents[number % len(contents)])] += 1

        await asyncio.gather(*map(go_on, range(chosen.num_at_once)))
    return outcomes


def _bytes_of(made: Any) -> bytes:
    return made if isinstance(made, bytes) else made.SerializeToString()


if __name__ == "__main__":
    random.seed(0)
    found = asyncio.run(attack(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
    print(", ".join(f"{number} {status}" for status, number in sorted(found.items())) or "none answered")
