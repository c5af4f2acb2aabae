"""Who may generate now, who waits, and who is sent away. Used by the servicer; pure asyncio.

Invariant: at most ``max_num_requests`` permits are out, and no client holds more than its share of them or of the queue. The queue
is bounded by requests and, since one may be a thousand times the work of another, by about how many tokens their prompts have. Permits
are granted in order of arrival to those under their share, and a waiting request that is cancelled gives its place back.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from router.retry_delays import RetryDelays
from specgrove.errors import ResourceExhaustedError, UnavailableError
from specgrove.telemetry.metrics import Kind, Metric, Reading

RUNNING = Metric(
    "specgrove_router_requests_running",
    Kind.GAUGE,
    "Requests that are being answered.",
    vllm_name="vllm:num_requests_running",
)
WAITING = Metric(
    "specgrove_router_requests_waiting",
    Kind.GAUGE,
    "Requests that wait for their turn in the router.",
    vllm_name="vllm:num_requests_waiting",
)
LIMIT = Metric("specgrove_router_requests_limit", Kind.GAUGE, "Requests that may be answered at once (--max-requests).")
WAITING_TOKENS = Metric(
    "specgrove_router_waiting_prompt_tokens",
    Kind.GAUGE,
    "About how many tokens the prompts of requests have that wait for their turn in the router.",
)
QUEUE_LIMIT = Metric(
    "specgrove_router_queue_limit", Kind.GAUGE, "Requests that may wait for their turn (--max-queued)."
)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """A place in the queue."""

    client: str | None
    num_tokens: int
    granted: asyncio.Future[None]


class Admission:
    """One per router."""

    def __init__(
        self,
        max_num_requests: int,
        max_num_queued: int,
        *,
        max_num_per_client: int | None = None,
        max_num_queued_tokens: int | None = None,
        random: Random | None = None,
    ) -> None:
        """``max_num_per_client`` bounds what one client holds, and in the same proportion what it queues.

        ``max_num_queued_tokens`` bounds the queue's tokens; a single request may wait however many it has.

        ``random`` spreads the delays after which refused clients try again.
        """
        self.max_num_requests = max_num_requests
        self._max_num_queued = max_num_queued
        self._max_num_queued_tokens = max_num_queued_tokens
        self._max_num_held = max_num_per_client or max_num_requests
        self._max_num_waiting = max_num_queued * self._max_num_held // max_num_requests
        self._held: Counter[str] = Counter()
        self._queue: list[_Turn] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._delays = RetryDelays(random)
        self.num_active = 0

    @property
    def num_queued(self) -> int:
        """Requests that wait for a permit."""
        return len(self._queue)

    @property
    def num_queued_tokens(self) -> int:
        """About how many tokens their prompts have."""
        return sum(turn.num_tokens for turn in self._queue)

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        yield Reading(RUNNING, self.num_active)
        yield Reading(WAITING, self.num_queued)
        yield Reading(WAITING_TOKENS, self.num_queued_tokens)
        yield Reading(LIMIT, self.max_num_requests)
        yield Reading(QUEUE_LIMIT, self._max_num_queued)

    def permit(self, client: str | None = None, num_tokens: int = 0) -> _Permit:
        """``async with`` waits for a permit and holds it. Raises ``ResourceExhaustedError`` when the queue, or the client's share, is full.

        ``client`` is whose share counts; None has no share of its own. ``num_tokens``: about how many the prompt has.
        """
        return _Permit(self, client, num_tokens)

    async def wait_idle(self) -> None:
        """Returns when nobody holds or awaits a permit."""
        await self._idle.wait()

    def close(self) -> None:
        """Sends away whoever waits for a permit: there will be none."""
        for turn in self._queue:
            if not turn.granted.done():
                turn.granted.set_exception(
                    UnavailableError("the router shut down while the request waited for its turn")
                )
        self._queue.clear()

    async def acquire(self, client: str | None, num_tokens: int) -> None:
        """For ``permit``: returns when the client has one."""
        if self._may_have(client):
            self._take(client)
            return
        self._check_queue(client, num_tokens)
        turn = _Turn(client, num_tokens, asyncio.get_running_loop().create_future())
        self._queue.append(turn)
        try:
            await turn.granted
        except asyncio.CancelledError:
            if turn.granted.done() and not turn.granted.cancelled() and turn.granted.exception() is None:
                # The permit came in the same tick as the cancellation: pass it on.
                self._release(client)
            elif turn in self._queue:
                self._queue.remove(turn)
            raise

    def _check_queue(self, client: str | None, num_tokens: int) -> None:
        if len(self._queue) >= self._max_num_queued:
            raise ResourceExhaustedError(
                f"{self.num_active} requests are served and {len(self._queue)} wait, which is the most there may be",
                self._retry_delay_ms(),
            )
        limit, num_queued_tokens = self._max_num_queued_tokens, self.num_queued_tokens
        if limit is not None and self._queue and num_queued_tokens + num_tokens > limit:
            raise ResourceExhaustedError(
                f"{len(self._queue)} requests wait, with about {num_queued_tokens} tokens of prompts, and this one has about {num_tokens}; "
                f"{limit} may wait",
                self._retry_delay_ms(),
            )
        num_waiting = sum(turn.client == client for turn in self._queue)
        if client is not None and num_waiting >= max(self._max_num_waiting, 1):
            raise ResourceExhaustedError(
                f"{self._held[client]} requests of this connection are served and {num_waiting} wait, which is its share",
                self._retry_delay_ms(),
            )

    def _may_have(self, client: str | None) -> bool:
        is_under_share = client is None or self._held[client] < self._max_num_held
        return is_under_share and self.num_active < self.max_num_requests

    def _take(self, client: str | None) -> None:
        self.num_active += 1
        self._idle.clear()
        if client is not None:
            self._held[client] += 1

    def give_back(self, client: str | None, service_s: float) -> None:
        """For ``permit``: it was held for ``service_s``."""
        self._delays.learn(service_s)
        self._release(client)

    def _release(self, client: str | None) -> None:
        self.num_active -= 1
        if client is not None:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]
        self._grant_next()
        if self.num_active == 0:
            self._idle.set()

    def _grant_next(self) -> None:
        """The permit that has come free, to the first of the queue who may have it."""
        for turn in list(self._queue):
            if turn.granted.done():  # its waiter was cancelled in this very tick
                self._queue.remove(turn)
            elif self._may_have(turn.client):
                self._queue.remove(turn)
                self._take(turn.client)
                turn.granted.set_result(None)
                return

    def _retry_delay_ms(self) -> int:
        return self._delays.next_ms(self.max_num_requests)


class _Permit:
    """One request's, for ``async with``."""

    def __init__(self, admission: Admission, client: str | None, num_tokens: int) -> None:
        self._admission = admission
        self._client = client
        self._num_tokens = num_tokens
        self._started_s = 0.0

    async def __aenter__(self) -> None:
        await self._admission.acquire(self._client, self._num_tokens)
        self._started_s = time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        self._admission.give_back(self._client, time.monotonic() - self._started_s)
