"""What API keys may take: requests at once, and tokens a minute."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from router.config import HttpConfig
from router.key_limits import KEY_REFUSED, KEY_REQUESTS, KEY_RUNNING, KEY_TOKENS, KeyLimits
from router.token_bucket import TokenBucket
from specgrove.client import AsyncClient
from specgrove.client.retries import NO_RETRIES
from specgrove.errors import InvalidRequestError, ResourceExhaustedError, UnauthorizedError
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


def _of_file(generation: int, max_num_requests: int | None, tokens_per_minute: int | None) -> ApiKey:
    return ApiKey("alice", hash_of(f"{generation}"), max_num_requests, tokens_per_minute, generation=generation)


async def test_limits_follow_the_file_and_are_shared_by_a_name() -> None:
    limits = KeyLimits(_Clock())
    async with limits.using(_of_file(1, 1, 100), 60) as use:
        use.read_prompt(60)
        with pytest.raises(ResourceExhaustedError, match="'alice' has 1 requests under way, which is its limit"):
            async with limits.using(_of_file(2, 1, 100), 1):
                pass
        async with limits.using(_of_file(3, 2, 50), 1):
            pass
        # 40 were left, of which a smaller bucket holds 30.
        assert limits.headers(_of_file(4, 2, 30))["x-ratelimit-remaining-tokens"] == "30"
        async with limits.using(_of_file(5, None, None)), limits.using(_of_file(5, None, None)), limits.using(None, 1):
            pass


async def test_requests_with_keys_of_an_older_file_change_nothing() -> None:
    limits = KeyLimits(_Clock())
    old, new = _of_file(1, None, None), _of_file(2, 1, 100)
    async with limits.using(new, 100) as use:
        use.read_prompt(100)
        use.add_output(400)
        for _ in range(2):
            assert limits.headers(old) == limits.headers(new)
            assert limits.headers(new)["x-ratelimit-remaining-tokens"] == "0"
            with pytest.raises(ResourceExhaustedError, match="1 requests under way"):
                async with limits.using(old):
                    pass
    for key in (old, new):
        with pytest.raises(ResourceExhaustedError, match="100 tokens a minute"):
            async with limits.using(key, 1):
                pass


async def test_headers_only_read() -> None:
    limits = KeyLimits(_Clock())
    async with limits.using(_of_file(1, 1, 100), 60) as use:
        use.read_prompt(60)
    for newer in (_of_file(2, None, None), _of_file(3, 5, 1000)):
        limits.headers(newer)
    assert limits.headers(_of_file(1, 1, 100))["x-ratelimit-remaining-tokens"] == "40"


async def test_what_was_used_stays_while_there_is_no_limit() -> None:
    limits = KeyLimits(_Clock())
    async with limits.using(_of_file(1, 1, 100), 90) as use:
        use.read_prompt(90)
        async with limits.using(_of_file(2, None, None), 50) as more:
            more.read_prompt(50)
            assert limits.headers(_of_file(2, None, None)) == {}
            with pytest.raises(ResourceExhaustedError, match="2 requests under way"):
                async with limits.using(_of_file(3, 2, 100)):
                    pass
    assert limits.headers(_of_file(3, 2, 100))["x-ratelimit-reset-tokens"] == "84s"  # 40 are owed


async def test_nothing_is_given_back_that_was_not_paid() -> None:
    limits = KeyLimits(_Clock())
    async with limits.using(_of_file(1, None, None), 50), limits.using(_of_file(2, None, 100), 80) as use:
        use.read_prompt(80)
    assert limits.headers(_of_file(2, None, 100))["x-ratelimit-remaining-tokens"] == "20"


def test_a_key_tells_which_reading_of_its_file_it_is_of(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("some-key\n")
    keys = ApiKeys.in_file(path)
    old = keys.key_of("Bearer some-key")
    path.write_text("# changed\nsome-key\n")
    assert keys.key_of("Bearer some-key").generation > old.generation


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


async def test_more_outputs_than_a_key_may_ever_have_are_no_matter_of_waiting() -> None:
    keys = ApiKeys([_key("alice", 2), _key("bob")])
    async with toy_suite(api_keys=keys, http=HttpConfig("127.0.0.1:0")) as suite:

        async def refused(path: str, body: dict[str, Any]) -> tuple[int, str]:
            reply = await ask(suite, path, {"max_tokens": 2, **body}, headers={"authorization": "Bearer alice-key"})
            assert "the API key 'alice' may have 2 at once" in reply.error["message"]
            return reply.status, reply.error["param"]

        chat = {"messages": [{"role": "user", "content": "x"}], "n": 3}
        assert await refused("/v1/chat/completions", chat) == (400, "n")
        assert await refused("/v1/completions", {"prompt": "x", "n": 3}) == (400, "n")
        assert await refused("/v1/completions", {"prompt": ["x", "y"], "n": 2}) == (400, "n")
        assert await refused("/v1/completions", {"prompt": ["x", "y", "z"]}) == (400, "prompt")
        assert KEY_REQUESTS not in {r.metric for r in suite.app._servicer.key_limits.readings() if r.by_labels()}
        for name, body in (("alice", {"prompt": ["x", "y"]}), ("bob", {"prompt": "x", "n": 3})):
            headers = {"authorization": f"Bearer {name}-key"}
            assert (await ask(suite, "/v1/completions", {"max_tokens": 2, **body}, headers=headers)).status == 200


async def test_at_the_local_address_a_client_says_whose_limits_it_has(tmp_path: Path) -> None:
    keys = ApiKeys([_key("alice", 1), _key("bob", 1)])
    local = f"unix:{tmp_path}/local.sock"
    llm = ToyLlm()
    llm.gate.clear()
    async with (
        toy_suite(llm, api_keys=keys, local_address=local) as suite,
        AsyncClient(local, retry=NO_RETRIES) as client,
        _client(suite, "bob") as bob,
    ):
        first = asyncio.create_task(client.for_key("alice").complete("x", max_tokens=2, timeout_s=LIMIT_S))
        await until(lambda: suite.app.admission.num_active == 1)
        with pytest.raises(ResourceExhaustedError, match="'alice' has 1 requests under way"):
            await client.for_key("alice").complete("x", max_tokens=2, timeout_s=LIMIT_S)
        with pytest.raises(UnauthorizedError, match="no API key is named 'carol'"):
            await client.for_key("carol").complete("x", max_tokens=2, timeout_s=LIMIT_S)
        unnamed = asyncio.create_task(client.complete("x", max_tokens=2, timeout_s=LIMIT_S))
        # At the public one it is the key that counts.
        of_bob = asyncio.create_task(bob.for_key("alice").complete("x", max_tokens=2, timeout_s=LIMIT_S))
        await until(lambda: suite.app.admission.num_active == 3)
        llm.gate.set()
        for task in (first, unnamed, of_bob):
            assert (await task).text


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
