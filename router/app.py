"""The router put together: replicas, admission, servicer, server. Started by ``__main__`` and, on port 0, by tests.

Invariant: health says SERVING exactly while an LLM replica is usable and the model is known.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from typing import TYPE_CHECKING

import grpc

from router.admission import Admission
from router.config import HttpConfig, RouterConfig
from router.discovery import LookUp, Resolving
from router.facades import kserve
from router.llm_replicas import LlmPool
from router.names import look_up
from router.remote_verifier import RemoteVerifier
from router.servicer import RouterServicer
from router.ssm_replicas import SsmPool
from router.ssm_wishes import readings_of
from specgrove.addresses import stays_on_this_machine
from specgrove.inference import open_inference_pb2_grpc
from specgrove.serving.health import Health
from specgrove.serving.health_server import health_server
from specgrove.serving.replica_channel import ServicesTls
from specgrove.serving.server import Server, ServerLimits, serve_until_signal
from specgrove.telemetry.metrics import Source
from specgrove.telemetry.tracing import set_up_tracing
from specgrove.v1 import router_pb2, router_pb2_grpc

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from router.http.page import ChatPage
    from router.http.server import HttpServer

logger = logging.getLogger(__name__)

SERVICE_NAME = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name
_VLLM_ENGINE = "vllm.grpc.engine.VllmEngine"
# After so long it is said what is waited for; again after twice that time, and so on: large models load for minutes.
_QUIET_S = 10.0
_SSM_WAIT_S = 1.0
# How often a router without LLM services looks whether it has anything left to wait for.
_LOOK_S = 1.0
# Replicas measure themselves for two seconds at most; a little more for what that takes besides.
_MEASURE_WAIT_S = 3.0
# Nothing on the router's event loop takes a tenth of a second. What takes this long never ends.
_HANG_TIMEOUT_S = 60.0
# Streams of one connection. Well above what it may hold and queue: a request too many is to be told when to try again, whereas a
# stream too many is reset by HTTP/2, where the client sent it before it knew of the limit.
_MIN_MAX_NUM_STREAMS = 1024


class RouterApp:
    """One router."""

    def __init__(self, config: RouterConfig, look_up: LookUp = look_up) -> None:
        """``look_up`` resolves the names of services."""
        resolving = Resolving(config.resolve_interval_s, look_up)
        tls = None if config.services_tls is None else ServicesTls(config.services_tls)
        self.llms = LlmPool(config.llm_addresses, resolving, tls)
        self.ssms = SsmPool(
            config.ssm_addresses, lambda: self.llms.model, resolving, tls, llm_places=lambda: self.llms.places
        )
        self.admission = Admission(
            config.max_num_requests,
            config.max_num_queued,
            max_num_queued_tokens=config.max_num_queued_tokens,
            max_num_per_client=config.max_num_per_connection or max(1, config.max_num_requests * 3 // 4),
        )
        self._config = config
        self._tracing = set_up_tracing("router", config.tracing)
        self._verifier = RemoteVerifier(self.llms, replica_wait_s=config.replica_wait_s, busy_wait_s=config.busy_wait_s)
        self._servicer = RouterServicer(
            self.llms,
            self.ssms,
            self._verifier,
            self.admission,
            config.trees,
            max_request_s=config.max_request_s,
            tracing=self._tracing,
            renders_apart=config.renders_apart,
        )
        self.health = Health(
            [SERVICE_NAME, kserve.SERVICE_NAME, *([_VLLM_ENGINE] if config.has_vllm_engine_api else [])]
        )
        self.server = Server(
            config.address,
            self._register,
            health=self.health,
            drain=self._drain,
            cut_off=self._servicer.cut_off,
            drain_timeout_s=config.drain_timeout_s,
            limits=ServerLimits(
                max_request_bytes=config.max_request_bytes,
                max_num_streams=max(_MIN_MAX_NUM_STREAMS, 2 * (config.max_num_requests + config.max_num_queued)),
                max_connection_age_s=config.max_connection_age_s,
                write_timeout_s=config.reader_timeout_s,
                is_public=True,
            ),
            tls=config.server_tls,
            keys=config.api_keys,
            local_address=config.local_address,
            has_reflection=config.describes_itself,
        )
        self._page = None if config.http is None else _chat_page(config, config.http, self.server)
        self.http: HttpServer | None = None
        self.metrics_http: HttpServer | None = None
        if config.http is not None or config.metrics.address is not None:
            self._make_http_servers()
        self._health_changed = asyncio.Event()

    def _register(self, server: grpc.aio.Server) -> None:
        router_pb2_grpc.add_RouterServiceServicer_to_server(self._servicer, server)
        facade = kserve.KServeServicer(self._servicer, lambda: self.health.is_serving)
        open_inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(facade, server)
        if self._config.has_vllm_engine_api:
            # Imported where it is asked for only: its package is an extra.
            from router.facades import vllm_engine

            engine = vllm_engine.VllmEngineServicer(self._servicer, self.admission, lambda: self.health.is_serving)
            vllm_engine.register(engine, server)

    async def run(self) -> None:
        """Connects, and keeps the health up to date. Runs until cancelled, beside the server; see ``_health_has_changed``."""
        self.llms.start(lambda is_usable: self._health_changed.set())
        self.ssms.start()
        await self._connected()
        await asyncio.gather(self.llms.measured(_MEASURE_WAIT_S), self._servicer.prepare())
        # The first request should find them. Nobody waits for others.
        await self.ssms.connected(_SSM_WAIT_S)
        # What there is now stays; a collection that looked at all of it would hold every stream up.
        gc.freeze()
        while True:
            self._health_changed.clear()
            self.health.set_serving(self.llms.is_usable)
            logger.info("%s", "serving" if self.llms.is_usable else "not serving: no LLM replica")
            await self._health_has_changed()

    async def _health_has_changed(self) -> None:
        """Returns when it has.

        Raises ``RuntimeError`` where no LLM service of the model served is left, and no request has to wait for one any more. Who is
        started anew then finds the model that there is now, as after a rolling update to another one.
        """
        refused_s = 0.0
        while not self._health_changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if self.llms.is_usable else _LOOK_S):
                    await self._health_changed.wait()
            refusal = self.llms.refusal
            refused_s = 0.0 if refusal is None else refused_s + _LOOK_S
            is_idle = self.admission.num_active == self.admission.num_queued == 0
            if refusal is not None and (is_idle or refused_s > self._verifier.replica_wait_s):
                raise RuntimeError(f"ends, because no LLM service of its model is left: {refusal}")

    async def start_http(self) -> None:
        """Before ``run``, where the HTTP API or metrics have an address. Raises ``OSError`` where it can't be had."""
        for server in self._http_servers():
            await server.start()

    async def close(self) -> None:
        """Closes the HTTP server, the sessions and the connections. The gRPC server is stopped before."""
        for server in self._http_servers():
            await server.stop()
        if self._page is not None:
            await self._page.close()
        self._servicer.close()
        await self._verifier.finish()
        await self.ssms.close()
        await self.llms.close()
        await asyncio.to_thread(self._tracing.shut_down)

    async def _drain(self) -> None:
        for server in self._http_servers():
            server.drain()
        await self.admission.wait_idle()

    async def _connected(self) -> None:
        usable = asyncio.ensure_future(self._usable())
        waited_s, wait_s = 0.0, _QUIET_S
        try:
            while not (await asyncio.wait({usable}, timeout=wait_s))[0]:
                waited_s += wait_s
                addresses = ", ".join(self._config.llm_addresses)
                logger.info("waiting for the LLM service at %s (%.0f s)", addresses, waited_s)
                wait_s *= 2
        finally:
            usable.cancel()

    async def _usable(self) -> None:
        while not self.llms.is_usable:
            await self._health_changed.wait()
            self._health_changed.clear()

    def _http_servers(self) -> tuple[HttpServer, ...]:
        return tuple(server for server in (self.http, self.metrics_http) if server is not None)

    def _make_http_servers(self) -> None:
        """That of the API, and that of metrics alone, as far as they are asked for."""
        # Imported where it is asked for only: it costs half a second of the start.
        from router.http.app import ApiSettings, make_app
        from router.http.calls import RouterCalls
        from router.http.metrics import MetricsEndpoint
        from router.http.response_counts import ResponseCounts
        from router.http.server import HttpServer

        config, servicer, server = self._config, self._servicer, self.server
        response_counts = ResponseCounts()
        metrics = MetricsEndpoint(self._registry(response_counts.readings), servicer.replica_stats.refresh)
        if (http := config.http) is not None:
            calls = RouterCalls(
                servicer,
                lambda: self.health.is_serving,
                lambda: server.is_draining,
                http.tool_call_format,
                http.served_names,
            )
            settings = ApiSettings(
                config.max_request_bytes,
                config.reader_timeout_s,
                config.api_keys,
                servicer.key_limits.headers,
                http.origins,
                recommends_sampling=http.recommends_sampling,
                describes_itself=config.describes_itself,
            )
            shown = metrics if http.has_metrics else None
            app = make_app(calls, settings, servicer.version, shown, response_counts, self._page)
            self.http = HttpServer(http.address, app, config.server_tls)
        if config.metrics.address is not None:
            self.metrics_http = HttpServer(config.metrics.address, metrics, None, "metrics")

    def _registry(self, *more: Source) -> CollectorRegistry:
        from specgrove.telemetry.metrics.exposition import VllmNames, make_registry

        sources = (
            self.admission.readings,
            self._servicer.request_counts.readings,
            self._servicer.key_limits.readings,
            self._servicer.speculation_counts.readings,
            self._servicer.calibration.readings,
            self._servicer.pauses.readings,
            lambda: readings_of(self._servicer.hidden_room),
            self._servicer.replica_stats.readings,
            self.server.readings,
            *more,
        )
        vllm = VllmNames(lambda: None if self.llms.model is None else self.llms.model.name)
        return make_registry("router", sources, vllm if self._config.metrics.has_vllm_names else None)


def _warn_of_clear_keys(config: RouterConfig) -> None:
    if config.api_keys is None or config.server_tls is not None:
        return
    addresses = [config.address, *([] if config.http is None else [config.http.address])]
    for address in addresses:
        if not stays_on_this_machine(address):
            logger.warning(
                "clients send their API keys to %s in clear: give --tls-certificate and --tls-private-key, or put what encrypts "
                "before the router", address,
            )  # fmt: skip


def _chat_page(config: RouterConfig, http: HttpConfig, server: Server) -> ChatPage | None:
    from router.http.page import ChatPage, is_gradio_installed
    from router.http.page_process import PageProcess

    if not http.has_page:
        return None
    # The page is a client of this machine, without a certificate or a key.
    is_reachable = config.local_address is not None or (config.server_tls is None and config.api_keys is None)
    process = PageProcess(lambda: config.local_address or server.address) if is_reachable else None
    return ChatPage(process, has_gradio=is_gradio_installed())


async def serve(config: RouterConfig) -> None:
    """Serves until SIGTERM or SIGINT."""
    app = RouterApp(config)
    _warn_of_clear_keys(config)
    with health_server(config.health_address, app.health):
        try:
            await app.start_http()
            await serve_until_signal(app.server, app.run(), is_serving=False, hang_timeout_s=_HANG_TIMEOUT_S)
        finally:
            # gRPC's server has drained, and with it what came by HTTP: they share their permits.
            await app.close()
