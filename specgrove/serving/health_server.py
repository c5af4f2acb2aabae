"""An address for health checks alone, in clear and without keys: for probes that know neither, as Kubernetes' own.

Used by the ``__main__`` of all services, around everything slow. It has threads of its own: they answer while a model is loaded, too.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from specgrove.addresses import grpc_target, is_unix, socket_path
from specgrove.serving.health import Health, unknown_name, watched_status
from specgrove.serving.listening import check_can_listen
from specgrove.serving.unix_socket import take_socket_path

logger = logging.getLogger(__name__)

# Each call of ``Watch`` keeps a thread. Checks have theirs all the time.
_MAX_NUM_WATCHES = 8
_MAX_NUM_CHECKS = 4
_CLOSE_TIMEOUT_S = 0.5
_MAX_REQUEST_BYTES = 1024


@contextlib.contextmanager
def health_server(address: str | None, health: Health) -> Iterator[None]:
    """Answers health checks at ``address`` within the block; nothing where there is none. Raises ``OSError``."""
    if address is None:
        yield
        return
    check_can_listen(address)
    if is_unix(address):
        take_socket_path(socket_path(address))
    pool = ThreadPoolExecutor(_MAX_NUM_WATCHES + _MAX_NUM_CHECKS, thread_name_prefix="health")
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES)]
    server = grpc.server(pool, options=options)
    health_pb2_grpc.add_HealthServicer_to_server(_Servicer(health), server)
    try:
        server.add_insecure_port(grpc_target(address))
    except RuntimeError as error:
        raise OSError(f"can't listen on {address}: it is in use, or not an address of this machine") from error
    server.start()
    logger.info("health at %s", address)
    try:
        yield
    finally:
        server.stop(_CLOSE_TIMEOUT_S).wait()
        pool.shutdown(wait=False)


class _Servicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    def __init__(self, health: Health) -> None:
        self._health = health
        self._free_watches = threading.Semaphore(_MAX_NUM_WATCHES)

    def Check(self, request: Any, context: grpc.ServicerContext) -> health_pb2.HealthCheckResponse:  # noqa: N802
        status = self._health.status_of(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, unknown_name(request.service))
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(self, request: Any, context: grpc.ServicerContext) -> Iterator[health_pb2.HealthCheckResponse]:  # noqa: N802
        if not self._free_watches.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_MAX_NUM_WATCHES} watch already; ask the service's own address"
            )
        try:
            yield from self._statuses(request.service, context)
        finally:
            self._free_watches.release()

    def _statuses(self, name: str, context: grpc.ServicerContext) -> Iterator[health_pb2.HealthCheckResponse]:
        changed, last = threading.Event(), None
        with self._health.observed(changed.set):
            if not context.add_callback(changed.set):
                return
            while context.is_active():
                changed.clear()
                if (status := watched_status(self._health, name)) != last:
                    yield health_pb2.HealthCheckResponse(status=status)
                    last = status
                changed.wait()
