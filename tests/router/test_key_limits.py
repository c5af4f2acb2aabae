"""What API keys may take: requests at once, and tokens a minute."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.config import HttpConfig
from router.key_limits import KEY_REFUSED, KEY_REQUESTS, KEY_RUNNING, KEY_TOKENS, KeyLimits
from router.token_bucket import TokenBucket
from specgrove.client import AsyncClient
from specgrove.client.retries import NO_RETRIES
from specgrove.errors import InvalidRequestError, ResourceExhaustedError
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.key_file import ApiKey, hash_of
from tests.router.http.asking import ask
from tests.router.toy_services import ToyLlm
from tests.router.toy_suite import ToySuite, toy_suite
from tests.waiting import LIMIT_S, until


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_bucket_fills_evenly_and_holds_a_minute() -> None:
    bucket = TokenBucket(60, 0.0)
    assert bucket.wait_s(60, 0.0) == 0
    bucket.spend(60, 0.0)
    assert [bucket.wait_s(num, 1.0) for num in (1, 2, 60)] == [0, 1, 59]
    assert bucket.level(1000.0) == 60
    # What began goes on, and is paid for later.
    bucket.spend(100, 1000.0)
    assert (bucket.level(1000.0), bucket.wait_s(1, 1000.0)) == (-40, 41)
    # More than it holds is let in when it is full.
    assert bucket.wait_s(10**6, 1000.0) == 100
    bucket.resize(30, 1040.0)
    assert (bucket.level(1040.0), bucket.level(1100.0)) == (0, 30)
    bucket.spend(-10, 1100.0)
    assert bucket.level(1100.0) == 30


def test_over_any_time_no_more_is_spent_than_came_in_it() -> None:
    bucket, now_s, num_spent = TokenBucket(600, 0.0), 0.0, 0
    while now_s < 600:
        if bucket.wait_s(50, now_s) == 0:
            bucket.spend(50, now_s)
            num_spent += 50
        now_s += 0.25
    assert 600 * 10 <= num_spent <= 600 * 11


async def test_a_prompt_is_paid_for_as_it_is_and_an_output_as_it_comes() -> None:
    clock = _Clock()
    limits, key = KeyLimits(clock), ApiKey("alice", b"", tokens_per_minute=100)

    def left() -> str:
        return limits.headers(key)["x-ratelimit-remaining-tokens"]

    async with limits.using(key, 30) as use:
        assert left() == "70"
        use.read_prompt(20)
        assert left() == "80"
        use.add_output(130)
    assert limits.headers(key) == {
        "x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "90s",
    }  # fmt: skip
    with pytest.raises(ResourceExhaustedError, match="'alice' has 100 tokens a minute, and they are used up") as raised:
        async with limits.using(key, 10):
            pass
    assert raised.value.retry_delay_ms == 36_000
    # What takes no tokens is let in all the same.
    async with limits.using(key):
        pass
    clock.now_s += 36
    async with limits.using(key, 10):
        pass
    # Nobody read that prompt.
    assert left() == "10"
    assert {reading.metric: reading.by_labels() for reading in limits.readings()} == {
        KEY_RUNNING: {("alice",): 0},
        KEY_REQUESTS: {("alice",): 3},
        KEY_REFUSED: {("alice", "tokens"): 1},
        KEY_TOKENS: {("alice", "prompt"): 20, ("alice", "output"): 130},
    }


async def test_limits_follow_the_file_and_are_shared_by_a_name() -> None:
    limits = KeyLimits(_Clock())
    old, new = (ApiKey("alice", hash_of(text), 1, 100) for text in ("old", "new"))
    async with limits.using(old, 60) as use:
        use.read_prompt(60)
        with pytest.raises(ResourceExhaustedError, match="'alice' has 1 requests under way, which is its limit"):
            async with limits.using(new, 1):
                pass
        async with limits.using(ApiKey("alice", b"", 2, 50), 1):
            pass
        # 40 were left, of which a smaller bucket holds 30.
        smaller = ApiKey("alice", b"", 2, 30)
        assert limits.headers(smaller)["x-ratelimit-remaining-tokens"] == "30"
        async with limits.using(ApiKey("alice", b"")), limits.using(ApiKey("alice", b"")), limits.using(None, 10**9):
            pass


def _key(name: str, max_num_requests: int | None = None, tokens_per_minute: int | None = None) -> ApiKey:
    return ApiKey(name, hash_of(f"{name}-key"), max_num_requests, tokens_per_minute)


def _client(suite: ToySuite, name: str) -> AsyncClient:
    return AsyncClient(suite.app.server.address, api_key=f"{name}-key", retry=NO_RETRIES)


async def _post(suite: ToySuite, name: str, num_tokens: int = 2) -> tuple[int, str, dict[str, str]]:
    headers = {"authorization": f"Bearer {name}-key"}
    reply = await ask(suite, "/v1/completions", {"prompt": "x", "max_tokens": num_tokens}, headers=headers)
    return reply.status, reply.json.get("error", {}).get("code", ""), dict(reply.headers)


async def test_requests_at_once_count_over_both_protocols_and_leave_others_alone() -> None:
    keys = ApiKeys([_key("alice", 1), _key("bob", 1)])
    llm = ToyLlm()
    llm.gate.clear()
    async with toy_suite(llm, api_keys=keys, http=HttpConfig("127.0.0.1:0")) as suite, _client(suite, "alice") as alice:
        first = asyncio.create_task(alice.complete("x", max_tokens=2, timeout_s=LIMIT_S))
        await until(lambda: suite.app.admission.num_active == 1)
        with pytest.raises(ResourceExhaustedError, match="'alice' has 1 requests under way") as raised:
            await alice.complete("x", max_tokens=2, timeout_s=LIMIT_S)
        assert raised.value.retry_delay_ms > 0
        status, code, headers = await _post(suite, "alice")
        assert (status, code) == (429, "rate_limit_exceeded")
        assert int(headers["retry-after"]) >= 1
        others = asyncio.create_task(_post(suite, "bob"))
        await until(lambda: suite.app.admission.num_active == 2)
        llm.gate.set()
        assert (await first).text
        assert (await others)[0] == 200
        assert (await _post(suite, "alice"))[0] == 200


async def test_tokens_a_minute_count_over_both_protocols_and_are_told() -> None:
    keys = ApiKeys([_key("alice", tokens_per_minute=20), _key("bob")])
    async with toy_suite(api_keys=keys, http=HttpConfig("127.0.0.1:0")) as suite, _client(suite, "alice") as alice:
        status, _, headers = await _post(suite, "alice", 5)
        assert status == 200
        assert headers["x-ratelimit-limit-tokens"] == "20"
        assert 0 < int(headers["x-ratelimit-remaining-tokens"]) < 20
        await alice.complete("x", max_tokens=30, timeout_s=LIMIT_S)
        with pytest.raises(ResourceExhaustedError, match="'alice' has 20 tokens a minute") as raised:
            await alice.complete("x", max_tokens=2, timeout_s=LIMIT_S)
        assert raised.value.retry_delay_ms > 10_000
        status, code, headers = await _post(suite, "alice")
        assert (status, code, headers["x-ratelimit-remaining-tokens"]) == (429, "rate_limit_exceeded", "0")
        assert int(headers["retry-after"]) > 10
        assert await alice.tokenize("x")
        status, _, headers = await _post(suite, "bob", 30)
        assert (status, "x-ratelimit-limit-tokens" in headers) == (200, False)
        metrics = (await ask(suite, "/metrics", headers={"authorization": "Bearer bob-key"})).content.decode()
    assert 'specgrove_router_key_tokens_total{key="alice",kind="output"} 35.0' in metrics
    assert 'specgrove_router_key_requests_refused_total{key="alice",limit="tokens"} 2.0' in metrics
    assert "alice-key" not in metrics


async def test_what_fails_gives_its_place_back(tmp_path: Path) -> None:
    async with toy_suite(api_keys=ApiKeys([_key("alice", 1, 1000)])) as suite, _client(suite, "alice") as alice:
        for _ in range(3):
            with pytest.raises(InvalidRequestError):
                await alice.complete("x" * 3000, max_tokens=10**6, timeout_s=LIMIT_S)
        assert (await alice.complete("x", max_tokens=2, timeout_s=LIMIT_S)).text
        leaving = asyncio.create_task(alice.complete("x", max_tokens=500, timeout_s=LIMIT_S))
        await until(lambda: suite.app.admission.num_active == 1)
        leaving.cancel()
        await until(lambda: suite.app.admission.num_active == 0)
        assert (await alice.complete("x", max_tokens=2, timeout_s=LIMIT_S)).text
