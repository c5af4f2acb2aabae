"""What each API key may take: requests at once, and tokens a minute. Used by the servicer; limits are this router's, not all routers'.

Keys of one name share its limits. Invariant: whichever way a request ends, its place is given back, and of its prompt it has paid for the
tokens that were read, no more. Nothing here knows a key, only its name.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from router.admission import Admission
from router.token_bucket import TokenBucket
from specgrove.errors import ResourceExhaustedError
from specgrove.serving.key_file import ApiKey
from specgrove.telemetry.metrics import Kind, Metric, Reading

KEY_RUNNING = Metric(
    "specgrove_router_key_requests_running",
    Kind.GAUGE,
    "Requests under way, by the name of their API key.",
    labels=("key",),
)
KEY_REQUESTS = Metric(
    "specgrove_router_key_requests_total",
    Kind.COUNTER,
    "Requests that were let in, by the name of their API key.",
    labels=("key",),
)
KEY_REFUSED = Metric(
    "specgrove_router_key_requests_refused_total",
    Kind.COUNTER,
    "Requests that were refused, by the name of their API key and the limit of it that they met (requests, tokens).",
    labels=("key", "limit"),
)
KEY_TOKENS = Metric(
    "specgrove_router_key_tokens_total",
    Kind.COUNTER,
    "Tokens of prompts and outputs, by the name of their API key.",
    labels=("key", "kind"),
)

RATE_LIMIT_HEADERS = ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens")
"""By the names of OpenAI's API."""

_MIN_RETRY_DELAY_MS = 200


class KeyLimits:
    """One per router."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._num_requests: Counter[tuple[str, ...]] = Counter()
        self._num_refused: Counter[tuple[str, ...]] = Counter()
        self._num_tokens: Counter[tuple[str, ...]] = Counter()

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(KEY_RUNNING, {(name,): account.num_running for name, account in list(self._accounts.items())})
        yield Reading(KEY_REQUESTS, self._num_requests)
        yield Reading(KEY_REFUSED, self._num_refused)
        yield Reading(KEY_TOKENS, self._num_tokens)

    @contextlib.asynccontextmanager
    async def using(self, key: ApiKey | None, num_tokens: int | None = None) -> AsyncIterator[KeyUse]:
        """One request's use of a key, around all of its work. ``num_tokens``: about how many its prompt has; None: it takes none.

        Without a key nothing is limited. Raises ``ResourceExhaustedError`` where the key's limits are met.
        """
        if key is None:
            yield KeyUse(None, self._num_tokens, self._clock, 0)
            return
        account = self._account(key)
        if num_tokens is not None:
            self._check_tokens(account, num_tokens)
        async with contextlib.AsyncExitStack() as place:
            try:
                if account.places is not None:
                    await place.enter_async_context(account.places.permit())
            except ResourceExhaustedError as error:
                self._num_refused[(account.name, "requests")] += 1
                problem = (
                    f"the API key {account.name!r} has {account.num_running} requests under way, which is its limit"
                )
                raise ResourceExhaustedError(problem, error.retry_delay_ms) from None
            self._num_requests[(account.name,)] += 1
            use = KeyUse(account, self._num_tokens, self._clock, num_tokens or 0)
            try:
                yield use
            finally:
                use.end()

    def headers(self, key: ApiKey) -> Mapping[str, str]:
        """What is left to a key with a limit of tokens."""
        bucket = self._account(key).bucket
        if bucket is None:
            return {}
        now_s = self._clock()
        left, full_s = max(math.floor(bucket.level(now_s)), 0), math.ceil(bucket.wait_s(bucket.per_minute, now_s))
        return dict(zip(RATE_LIMIT_HEADERS, (str(bucket.per_minute), str(left), f"{full_s}s"), strict=True))

    def _account(self, key: ApiKey) -> _Account:
        account = self._accounts.setdefault(key.name, _Account(key))
        account.limit(key, self._clock())
        return account

    def _check_tokens(self, account: _Account, num_tokens: int) -> None:
        bucket = account.bucket
        # An empty bucket lets nobody in, not even with a prompt of no tokens.
        wait_s = 0.0 if bucket is None else bucket.wait_s(max(num_tokens, 1), self._clock())
        if bucket is not None and wait_s > 0:
            self._num_refused[(account.name, "tokens")] += 1
            raise ResourceExhaustedError(
                f"the API key {account.name!r} has {bucket.per_minute} tokens a minute, and they are used up; try again in {wait_s:.1f} s",
                max(math.ceil(wait_s * 1e3), _MIN_RETRY_DELAY_MS),
            )


class KeyUse:
    """One request's. The prompt is paid for as estimated at first, then as it is; the output as it comes."""

    def __init__(
        self, account: _Account | None, counts: Counter[tuple[str, ...]], clock: Callable[[], float], num_tokens: int
    ) -> None:
        self._account = account
        self._counts = counts
        self._clock = clock
        self._num_prompt_tokens = num_tokens
        self._is_prompt_known = False
        if account is not None:
            account.num_running += 1
            self._spend(num_tokens)

    def read_prompt(self, num_tokens: int) -> None:
        """The prompt has so many tokens."""
        self._spend(num_tokens - self._num_prompt_tokens)
        self._num_prompt_tokens, self._is_prompt_known = num_tokens, True
        self._count("prompt", num_tokens)

    def add_output(self, num_tokens: int) -> None:
        """So many more go to the client."""
        self._spend(num_tokens)
        self._count("output", num_tokens)

    def end(self) -> None:
        """For ``KeyLimits.using``. A prompt that nobody read costs nothing."""
        if not self._is_prompt_known:
            self._spend(-self._num_prompt_tokens)
        if self._account is not None:
            self._account.num_running -= 1

    def _spend(self, num_tokens: int) -> None:
        if self._account is not None and self._account.bucket is not None:
            self._account.bucket.spend(num_tokens, self._clock())

    def _count(self, kind: str, num_tokens: int) -> None:
        if self._account is not None:
            self._counts[(self._account.name, kind)] += num_tokens


class _Account:
    """What the keys of one name have taken. Its limits are those of the newest file."""

    def __init__(self, key: ApiKey) -> None:
        self.name = key.name
        self.num_running = 0
        self.places: Admission | None = None
        self.bucket: TokenBucket | None = None

    def limit(self, key: ApiKey, now_s: float) -> None:
        """To what the key's line says."""
        if key.max_num_requests is None:
            self.places = None
        elif self.places is None:
            self.places = Admission(key.max_num_requests, max_num_queued=0)
        else:
            self.places.max_num_requests = key.max_num_requests
        if key.tokens_per_minute is None:
            self.bucket = None
        elif self.bucket is None:
            self.bucket = TokenBucket(key.tokens_per_minute, now_s)
        elif self.bucket.per_minute != key.tokens_per_minute:
            self.bucket.resize(key.tokens_per_minute, now_s)
