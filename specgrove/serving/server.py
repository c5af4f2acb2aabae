"""A service's gRPC server: health, reflection, limits, and a graceful end. Used by the ``__main__`` of all three services.

Order of the end: health says NOT_SERVING, new calls are refused (UNAVAILABLE), clients are told to connect elsewhere, work in progress
finishes within the drain time or is failed, then the server stops. A second signal stops it at once.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from specgrove.addresses import checked_address, grpc_target, is_unix, socket_path
from specgrove.serving import event_loop
from specgrove.serving.address import MAX_MESSAGE_BYTES, server_options
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.call_guard import CallGuard
from specgrove.serving.event_loop_watch import watch_event_loop
from specgrove.serving.followed_certificates import server_credentials
from specgrove.serving.health import Health, HealthServicer
from specgrove.serving.key_guard import KeyGuard, NamedKeyGuard
from specgrove.serving.listening import check_can_listen
from specgrove.serving.tls import TlsFiles
from specgrove.serving.unix_socket import take_socket_path
from specgrove.settings import DRAIN
from specgrove.telemetry.metrics import Reading

logger = logging.getLogger(__name__)

DRAIN_TIMEOUT_S: float = DRAIN.default
# What calls that are not work (health watches, idle streams) get at the very end.
_CLOSE_TIMEOUT_S = 0.5


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes from its clients. The defaults are those between services, which trust one another.

    ``max_num_streams`` and ``max_connection_age_s`` are per connection; ``write_timeout_s`` is how long a response may wait for its client
    to read; clients of a public server are given longer to answer pings.
    """

    max_request_bytes: int = MAX_MESSAGE_BYTES
    max_num_streams: int | None = None
    max_connection_age_s: float | None = None
    write_timeout_s: float | None = None
    is_public: bool = False


class Server:
    """One gRPC server. ``run_server`` is the usual way to use it; tests start and stop it in-process on port 0."""

    def __init__(
        self,
        address: str,
        register: Callable[[grpc.aio.Server], None],
        *,
        health: Health,
        drain: Callable[[], Awaitable[None]] | None = None,
        cut_off: Callable[[], None] = lambda: None,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
        limits: ServerLimits = ServerLimits(),
        tls: TlsFiles | None = None,
        keys: ApiKeys | None = None,
        local_address: str | None = None,
        has_reflection: bool = True,
    ) -> None:
        """``register`` adds the servicers; ``drain`` returns when the work in progress is done (default: when all calls are).
        Where that takes too long ``cut_off`` fails what is left, so that it ends by itself.

        With ``keys`` callers must have one. ``local_address`` is a second one, without encryption and keys: a unix socket for this
        machine's own clients, who may name a key whose limits they have, and health checks. ``has_reflection``: whoever asks is told which
        services and messages there are.
        """
        self.address = checked_address(address)
        self._local_address = local_address
        self._register = register
        self.health = health
        self._drain = drain
        self._cut_off = cut_off
        self.drain_timeout_s = drain_timeout_s
        self._limits = limits
        self._tls = tls
        self._keys = keys
        self._has_reflection = has_reflection
        self._guard = CallGuard(limits.write_timeout_s, is_public=limits.is_public)
        self._servers: tuple[grpc.aio.Server, ...] = ()

    def readings(self) -> Iterator[Reading]:
        """For metrics."""
        return self._guard.readings()

    @property
    def is_draining(self) -> bool:
        """Whether new calls are refused, because it stops."""
        return self._guard.is_draining

    async def start(self, *, is_serving: bool = True) -> str:
        """Listens, and returns the bound address. Raises ``OSError`` when the address is taken."""
        for address in filter(None, (self.address, self._local_address)):
            if is_unix(address):
                take_socket_path(socket_path(address))
        keys = self._keys
        public, port = self._listening(self.address, self._tls, None if keys is None else KeyGuard(keys))
        # A server of its own: calls don't tell by which of a server's addresses they came.
        local: tuple[grpc.aio.Server, ...] = ()
        if self._local_address is not None:
            local = (self._listening(self._local_address, None, None if keys is None else NamedKeyGuard(keys))[0],)
        if not is_unix(self.address):
            self.address = f"{self.address.rpartition(':')[0]}:{port}"
        self.health.set_serving(is_serving)
        self._servers = (public, *local)
        for server in self._servers:
            await server.start()
        return self.address

    def _listening(
        self, address: str, tls: TlsFiles | None, key_guard: grpc.aio.ServerInterceptor | None
    ) -> tuple[grpc.aio.Server, int]:
        """A server at an address, and its port. Raises ``OSError``."""
        limits = self._limits
        server = grpc.aio.server(
            interceptors=[*([] if key_guard is None else [key_guard]), self._guard],
            options=server_options(
                limits.max_request_bytes,
                limits.max_num_streams,
                max_connection_age_s=limits.max_connection_age_s,
                is_public=limits.is_public,
            ),
        )
        health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(self.health), server)
        self._register(server)
        if self._has_reflection:
            names = (*self.health.service_names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        try:
            if tls is None:
                return server, server.add_insecure_port(grpc_target(address))
            return server, server.add_secure_port(grpc_target(address), server_credentials(tls))
        except RuntimeError as error:
            check_can_listen(address)
            raise OSError(f"can't listen on {address}: it is in use, or not an address of this machine") from error

    async def stop(self, drain_timeout_s: float | None = None) -> None:
        """Drains, then stops; at once where it is cancelled. Safe to call twice."""
        servers, self._servers = self._servers, ()
        if not servers:
            return
        timeout_s = self.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        self.health.drain()
        self._guard.is_draining = True
        # Clients are told to connect elsewhere (GOAWAY), and what they have under way goes on. Services know one another by their health.
        leaving = (
            asyncio.ensure_future(_stop(servers, timeout_s + _CLOSE_TIMEOUT_S)) if self._limits.is_public else None
        )
        try:
            if self._drain is not None:
                await self._drained(self._drain(), timeout_s)
                timeout_s = min(_CLOSE_TIMEOUT_S, timeout_s)
            await _stop(servers, timeout_s)
            if leaving is not None:
                await leaving
        except asyncio.CancelledError:
            self._cut_off()
            if leaving is not None:
                leaving.cancel()
            # They never outlive their loop: a loop that ends cancels grpc's own tasks, whose memory grpc's core then still writes to.
            await _stop(servers, 0.0)
            raise

    async def _drained(self, work: Awaitable[None], timeout_s: float) -> None:
        started_s = time.monotonic()
        try:
            await asyncio.wait_for(work, timeout_s)
        except TimeoutError:
            logger.warning("work was still in progress after %.1f s of draining; stopping anyway", timeout_s)
            self._cut_off()
        logger.info("drained in %.1f s", time.monotonic() - started_s)


async def _stop(servers: Sequence[grpc.aio.Server], timeout_s: float) -> None:
    await asyncio.gather(*(server.stop(timeout_s) for server in servers))


async def run_server(
    address: str,
    register: Callable[[grpc.aio.Server], None],
    *,
    health: Health,
    drain: Callable[[], Awaitable[None]] | None = None,
    cut_off: Callable[[], None] = lambda: None,
    drain_timeout_s: float = DRAIN_TIMEOUT_S,
    limits: ServerLimits = ServerLimits(),
    tls: TlsFiles | None = None,
    stopped: Awaitable[object] | None = None,
    hang_timeout_s: float | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, or until ``stopped`` is done (a fatal failure: its exception is raised after the end).

    With ``hang_timeout_s`` the process ends when its event loop has no turn for so long.
    """
    server = Server(
        address,
        register,
        health=health,
        drain=drain,
        cut_off=cut_off,
        drain_timeout_s=drain_timeout_s,
        limits=limits,
        tls=tls,
    )
    await serve_until_signal(server, stopped, hang_timeout_s=hang_timeout_s)


async def serve_until_signal(
    server: Server,
    stopped: Awaitable[object] | None = None,
    *,
    is_serving: bool = True,
    hang_timeout_s: float | None = None,
) -> None:
    """``run_server`` for a server that is made already."""
    try:
        await server.start(is_serving=is_serving)
    except OSError:
        if inspect.iscoroutine(stopped):
            stopped.close()
        raise
    # What is there now stays: who would look through all of it for garbage, for a tenth of a second, would hold up all that is served.
    gc.collect()
    gc.freeze()
    watching = None if hang_timeout_s is None else asyncio.create_task(watch_event_loop(hang_timeout_s))
    try:
        await _until_signal(server, stopped)
    finally:
        await server.stop(0.0)
        if watching is not None:
            watching.cancel()
            # It takes a turn of the loop to call the timer off; what follows may block for long.
            await asyncio.gather(watching, return_exceptions=True)


async def _until_signal(server: Server, stopped: Awaitable[object] | None) -> None:
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    event_loop.take_signals()
    # The one line on stdout: whoever started this process with port 0 reads it, and may end the process at once.
    print(f"listening on {server.address}", flush=True)
    failed: asyncio.Future[object] = loop.create_future() if stopped is None else asyncio.ensure_future(stopped)
    first_signal: asyncio.Future[object] = asyncio.ensure_future(signals.get())
    await asyncio.wait({first_signal, failed}, return_when=asyncio.FIRST_COMPLETED)
    if failed.done():
        first_signal.cancel()
        await server.stop(0.0)
    else:
        logger.info(
            "%s: draining, for %.0f s at most", getattr(first_signal.result(), "name", "signal"), server.drain_timeout_s
        )
        await _drain(server, signals, failed)
    if failed.done():
        failed.result()
    failed.cancel()


async def _drain(server: Server, signals: asyncio.Queue[signal.Signals], failed: asyncio.Future[object]) -> None:
    """Until the server has stopped; a second signal or a failure cuts it short."""
    stopping = asyncio.ensure_future(server.stop())
    second_signal = asyncio.ensure_future(signals.get())
    waits: set[asyncio.Future[Any]] = {stopping, second_signal, failed}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        stopping.result()
    else:
        logger.warning("%s: stopping at once", "second signal" if second_signal.done() else "failed while draining")
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
    second_signal.cancel()
