"""What each API key may take: requests at once, and tokens a minute. Used by the servicer; limits are this router's, not all routers'.

Keys of one name share its limits. Those of the newest file count, whatever key a request came with. Invariant: whichever way a request
ends, its place is given back, and of its prompt it has paid for the tokens read, no more. Nothing here knows a key, only its name.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

from router.retry_delays import RetryDelays
from router.token_bucket import TokenBucket
from specgrove.errors import InvalidRequestError, ResourceExhaustedError
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
        account = self._accounts.setdefault(key.name, _Account(key))
        account.follow(key, self._clock())
        if num_tokens is not None:
            self._check_tokens(account, num_tokens)
        self._check_place(account)
        self._num_requests[(account.name,)] += 1
        use = KeyUse(account, self._num_tokens, self._clock, num_tokens or 0)
        try:
            yield use
        finally:
            use.end()

    def headers(self, key: ApiKey) -> Mapping[str, str]:
        """What is left to a key with a limit of tokens. Only reads."""
        account = self._accounts.get(key.name) or _Account(key)
        per_minute = account.newest(key).tokens_per_minute
        if per_minute is None:
            return {}
        now_s = self._clock()
        level = float(per_minute) if account.bucket is None else min(account.bucket.level(now_s), float(per_minute))
        left, full_s = max(math.floor(level), 0), math.ceil((per_minute - level) * 60 / per_minute)
        return dict(zip(RATE_LIMIT_HEADERS, (str(per_minute), str(left), f"{full_s}s"), strict=True))

    def check_num_outputs(self, key: ApiKey | None, num_outputs: int, field: str) -> None:
        """For calls that ask for several outputs at once, each of which is a request.

        Raises ``InvalidRequestError`` of ``field`` where they are more than the key may ever have.
        """
        if key is None:
            return
        account = self._accounts.get(key.name)
        limit = (key if account is None else account.newest(key)).max_num_requests
        if limit is not None and num_outputs > limit:
            raise InvalidRequestError.of(
                field,
                f"asks for {num_outputs} outputs; each is a request, and the API key {key.name!r} may have {limit} at once",
            )

    def _check_place(self, account: _Account) -> None:
        limit = account.key.max_num_requests
        if limit is not None and account.num_running >= limit:
            self._num_refused[(account.name, "requests")] += 1
            raise ResourceExhaustedError(
                f"the API key {account.name!r} has {account.num_running} requests under way, which is its limit",
                account.delays.next_ms(limit),
            )

    def _check_tokens(self, account: _Account, num_tokens: int) -> None:
        bucket = account.bucket
        if account.key.tokens_per_minute is None or bucket is None:
            return
        # An empty bucket lets nobody in, not even with a prompt of no tokens.
        if (wait_s := bucket.wait_s(max(num_tokens, 1), self._clock())) > 0:
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
        self._num_paid = 0
        self._is_prompt_known = False
        self._started_s = clock()
        if account is not None:
            account.num_running += 1
            # Where there is no limit yet nothing is paid, so that nothing is given back where one comes meanwhile.
            self._num_paid = 0 if account.bucket is None else num_tokens
            self._spend(self._num_paid)

    def read_prompt(self, num_tokens: int) -> None:
        """The prompt has so many tokens."""
        self._spend(num_tokens - self._num_paid)
        self._is_prompt_known = True
        self._count("prompt", num_tokens)

    def add_output(self, num_tokens: int) -> None:
        """So many more go to the client."""
        self._spend(num_tokens)
        self._count("output", num_tokens)

    def end(self) -> None:
        """For ``KeyLimits.using``. A prompt that nobody read costs nothing."""
        if not self._is_prompt_known:
            self._spend(-self._num_paid)
        if self._account is not None:
            self._account.num_running -= 1
            self._account.delays.learn(self._clock() - self._started_s)

    def _spend(self, num_tokens: int) -> None:
        if self._account is not None and self._account.bucket is not None:
            self._account.bucket.spend(num_tokens, self._clock())

    def _count(self, kind: str, num_tokens: int) -> None:
        if self._account is not None:
            self._counts[(self._account.name, kind)] += num_tokens


class _Account:
    """What the keys of one name have taken. It is kept whatever limits come and go."""

    def __init__(self, key: ApiKey) -> None:
        self.name = key.name
        self.key = key
        """Of the newest file that a request came with."""
        self.num_running = 0
        self.delays = RetryDelays()
        self.bucket: TokenBucket | None = None
        """Made with the first limit of tokens. It is paid into and out of on while there is none."""

    def newest(self, key: ApiKey) -> ApiKey:
        """The one whose limits count."""
        return key if key.generation >= self.key.generation else self.key

    def follow(self, key: ApiKey, now_s: float) -> None:
        """To the limits that the key's line has, unless newer ones are known."""
        self.key = self.newest(key)
        per_minute = self.key.tokens_per_minute
        if per_minute is None:
            return
        if self.bucket is None:
            self.bucket = TokenBucket(per_minute, now_s)
        elif self.bucket.per_minute != per_minute:
            self.bucket.resize(per_minute, now_s)
