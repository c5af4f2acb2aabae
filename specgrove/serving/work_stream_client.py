"""The client's half of the multiplexed streams: one channel and one stream to one replica, shared by all sessions.

Owned by the router's replicas. Reconnects for ever. Invariant: every item that was sent gets its results or, as soon as the
stream is lost, ``UnavailableError``, which is a ``WorkLostError`` where the peer may have died of it; results that nobody waits for any
more are dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import grpc

from specgrove.addresses import ReplicaAddress
from specgrove.errors import InternalError, SpecGroveError, UnavailableError, WorkLostError
from specgrove.serving.batches import MAX_ITEM_BYTES, MAX_LIST_LEN, batches
from specgrove.serving.replica_channel import TLS_CAUSE, ReplicaChannel, ServicesTls
from specgrove.serving.status import error_from_rpc

logger = logging.getLogger(__name__)
# How gRPC says that a peer gave no sign of life: it was stopped, or the way to it was cut. No item can be the reason.
_CUT_OFF = "ping timeout"

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

_MIN_BACKOFF_S = 0.02
_MAX_BACKOFF_S = 0.5
# Opening a stream needs one round trip; a peer that takes longer hangs.
_OPEN_TIMEOUT_S = 10.0
# A peer that is away is told of after about 10 s, since models load for seconds; then, where the cause is another one, after 20 s, 40 s ...
_NUM_QUIET_ATTEMPTS = 20


class SentItem(Generic[ResultT]):
    """An item under way, and its mailbox: the stream's reader puts its results there, who sent it takes them."""

    def __init__(self, item_id: int, client: WorkStreamClient[Any, ResultT]) -> None:
        self._item_id = item_id
        self._client = client
        self._mailbox: deque[ResultT | UnavailableError] = deque()
        self._waiting: asyncio.Future[None] | None = None  # who waits for the next one

    def put(self, result: ResultT | UnavailableError) -> None:
        """By the stream."""
        self._mailbox.append(result)
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def take(self) -> ResultT:
        """The next result. Raises ``UnavailableError`` where the stream was lost, or closed. One task at a time may wait."""
        while not self._mailbox:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        result = self._mailbox.popleft()
        if isinstance(result, UnavailableError):
            raise result
        return result

    def taken(self) -> list[ResultT]:
        """The results that have come by now, without waiting. A loss of the stream is told by ``take`` alone."""
        found = [result for result in self._mailbox if not isinstance(result, UnavailableError)]
        self._mailbox.clear()
        return found

    def finish_early(self) -> None:
        """Asks the peer that the next result be the last one. For requests with a field ``finish_early_item_ids``.

        What is asked in a turn of the event loop goes with that turn's items. Nothing happens to an item that is not under way any more.
        """
        self._client.finish_early(self._item_id)

    def drop(self) -> None:
        """Nobody waits for results any more. An item that was not sent yet never is: its session may be closed by then."""
        self._client.drop(self._item_id)


class WorkStreamClient(Generic[ItemT, ResultT]):
    """Multiplexes items over one stream. Start with ``start``, end with ``close``."""

    def __init__(
        self,
        address: ReplicaAddress,
        open_stream: Callable[[grpc.aio.Channel], grpc.aio.StreamStreamCall[Any, Any]],
        request_type: Callable[..., Any],
        *,
        on_connect: Callable[[grpc.aio.Channel], Awaitable[None]] | None = None,
        on_change: Callable[[], None] | None = None,
        tls: ServicesTls | None = None,
    ) -> None:
        """``on_connect`` runs before ``connected`` is set, each time; what it raises keeps the replica out of use.

        ``on_change`` is told whenever ``connected`` was set or cleared. Without ``tls`` the connection is in clear.
        """
        self.address = address.target
        self.connected = asyncio.Event()
        self._channel = ReplicaChannel(address, tls)
        self._open_stream = open_stream
        self._request_type = request_type
        self._on_connect = on_connect
        self._on_change = on_change or (lambda: None)
        self._under_way: dict[int, SentItem[ResultT]] = {}
        self._outbox: dict[int, ItemT] = {}
        self._finish_early_ids: list[int] = []  # not sent yet
        self._has_mail = asyncio.Event()
        self.num_items = 0
        """That the peer was asked for. They are numbered in this order."""
        self._running: asyncio.Task[None] | None = None
        self.num_losses = 0
        """How often the connection was lost."""

    @property
    def channel(self) -> grpc.aio.Channel:
        """For other calls to the peer. Another one after a loss, where certificates have changed: not to be kept."""
        return self._channel.current

    def start(self) -> None:
        """Connects in the background."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Fails what is pending, and closes the channel."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._channel.close()

    def send(self, item: ItemT) -> SentItem[ResultT]:
        """The caller drops it after the last result. Its ``item_id`` is set here.

        It is in the outbox when this returns. The writer is woken before whoever is woken later in this turn of the event loop, and sends
        all items of the turn in one message. Raises ``UnavailableError`` when not connected, ``InternalError`` for an item that no message
        can carry.
        """
        if not self.connected.is_set():
            raise UnavailableError(f"{self.address} is not connected")
        self.num_items += 1
        item_id = self.num_items
        item.item_id = item_id  # type: ignore[attr-defined]
        num_bytes: int = item.ByteSize()  # type: ignore[attr-defined]
        if num_bytes > MAX_ITEM_BYTES:
            raise InternalError(f"an item of {num_bytes} bytes is more than a message may have ({MAX_ITEM_BYTES})")
        sent = self._under_way[item_id] = SentItem(item_id, self)
        self._outbox[item_id] = item
        self._has_mail.set()
        return sent

    def drop(self, item_id: int) -> None:
        """See ``SentItem``."""
        self._under_way.pop(item_id, None)
        self._outbox.pop(item_id, None)

    def finish_early(self, item_id: int) -> None:
        """See ``SentItem``."""
        if item_id in self._under_way:
            self._finish_early_ids.append(item_id)
            self._has_mail.set()

    async def _run(self) -> None:
        num_failures = 0
        refusal: str | None = None  # told once, at once
        told_cause: str | None = None
        while True:
            has_broken = True
            try:
                await self._serve_one_stream()
                reason, has_broken = "the stream ended", False  # as when the peer has drained
            except grpc.aio.AioRpcError as error:
                reason = str(error_from_rpc(error))
                has_broken = _CUT_OFF not in reason
            except (SpecGroveError, TimeoutError) as error:
                reason = str(error) or "timed out"
                if isinstance(error, InternalError) and reason != refusal:
                    refusal = reason
                    logger.error("%s: not used: %s", self.address, reason)
            except Exception:
                logger.exception("%s: the stream failed", self.address)
                reason = "the stream failed"
            was_connected = self.connected.is_set()
            self._lose(reason, has_broken=has_broken)
            num_failures = 1 if was_connected else num_failures + 1
            if was_connected:
                self.num_losses += 1
                logger.warning("%s: lost: %s", self.address, reason)
                told_cause = None
            else:
                told_cause = self._tell_away(num_failures, self._channel.cause_of(reason), told_cause)
            backoff_s = min(_MIN_BACKOFF_S * 2 ** (num_failures - 1 if num_failures < 10 else 10), _MAX_BACKOFF_S)
            await asyncio.sleep(backoff_s * random.uniform(0.8, 1.2))

    def _tell_away(self, num_failures: int, cause: str, told_cause: str | None) -> str | None:
        """Of a peer that isn't connected yet: returns what the log says last. Wrong certificates are no matter of time: told at once."""
        is_tls = cause.startswith(TLS_CAUSE)
        if cause == told_cause or not (is_tls or _is_told(num_failures)):
            return told_cause
        logger.log(logging.ERROR if is_tls else logging.INFO, "%s: not connected yet: %s", self.address, cause)
        return cause

    async def _serve_one_stream(self) -> None:
        await self._channel.renew()
        call = self._open_stream(self.channel)
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_S):
                await call.wait_for_connection()
            if self._on_connect is not None:
                await self._on_connect(self.channel)
            self._outbox.clear()
            self.connected.set()
            self._on_change()
            logger.info("%s: connected", self.address)
            await self._exchange(call)
            if await call.code() is not grpc.StatusCode.OK:
                raise UnavailableError(await call.details() or "the stream broke")
        finally:
            call.cancel()
            self._lose_if_cancelled()

    async def _exchange(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        """Until the peer ends the stream. Raises what ended either direction: a stream on which nothing is sent is of no use."""
        reader, writer = asyncio.create_task(self._read(call)), asyncio.create_task(self._write(call))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            await reader
        finally:
            reader.cancel()
            writer.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        response: Any
        async for response in call:
            for result in response.results:
                sent = self._under_way.get(result.item_id)
                if sent is not None:
                    sent.put(result)

    async def _write(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        # The reader sees why a stream broke; the writer just stops.
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                await self._has_mail.wait()
                self._has_mail.clear()
                for request in self._take_requests():
                    await call.write(request)

    def _take_requests(self) -> list[Any]:
        """All that waits, as messages. What is to finish early goes with the last items, or by itself."""
        items, item_ids = list(self._outbox.values()), self._finish_early_ids
        self._outbox.clear()
        self._finish_early_ids = []
        requests = [self._request_type(items=batch) for batch in batches(items)]
        for start in range(0, len(item_ids), MAX_LIST_LEN):
            if start or not requests:
                requests.append(self._request_type())
            requests[-1].finish_early_item_ids.extend(item_ids[start : start + MAX_LIST_LEN])
        return requests

    def _lose(self, reason: str, *, has_broken: bool) -> None:
        """Ends all that is under way. A peer whose stream has broken may have died of what it was sent."""
        if self.connected.is_set():
            self.connected.clear()
            self._on_change()
        under_way, self._under_way = self._under_way, {}
        self._finish_early_ids = []
        lost = under_way.keys() - self._outbox.keys() if has_broken else set()
        message = f"{self.address}: {reason}"
        for item_id, sent in under_way.items():
            is_lost = item_id in lost
            sent.put(WorkLostError(message, was_alone=len(lost) == 1) if is_lost else UnavailableError(message))

    def _lose_if_cancelled(self) -> None:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            self._lose("closed", has_broken=False)


def _is_told(num_failures: int) -> bool:
    num_rounds, rest = divmod(num_failures, _NUM_QUIET_ATTEMPTS)
    return rest == 0 and num_rounds.bit_count() == 1
