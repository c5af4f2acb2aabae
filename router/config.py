"""The router's settings: built once in ``__main__``, passed down in the smallest piece."""

from __future__ import annotations

from dataclasses import dataclass

from specgrove.config import MAX_PUBLIC_REQUEST_BYTES
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.tls import TlsFiles
from specgrove.telemetry.tracing import NOWHERE, TracingConfig


@dataclass(frozen=True, slots=True)
class TreeConfig:
    """Bounds of the trees, root not counted. ``is_adaptive``: choose within them by measurement; else always ask for all."""

    max_num_nodes: int = 32
    max_depth: int = 8
    beam_width: int | None = None
    is_adaptive: bool = True


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """The HTTP API: where it listens, and from which pages browsers may ask.

    ``tool_call_format`` is how the model writes calls of tools; ``auto``: as its chat template shows.
    ``recommends_sampling``: sampling parameters that are left out have the values of the model's generation_config.json.
    """

    address: str
    origins: tuple[str, ...] = ()
    tool_call_format: str = "auto"
    recommends_sampling: bool = True
    # Whether `/` is the chat page, where Gradio is installed.
    has_page: bool = True
    # Whether there is ``/metrics``, for whoever may ask.
    has_metrics: bool = True
    # What the model is called, in place of its own name. Answers tell the first.
    served_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where Prometheus may read, beside the HTTP API's ``/metrics``, and whether it finds vLLM's names, too."""

    address: str | None = None
    has_vllm_names: bool = False


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """What a router serves, where, and how much of it at once."""

    llm_addresses: tuple[str, ...]
    ssm_addresses: tuple[str, ...] = ()
    # Between two looks at the names among these addresses.
    resolve_interval_s: float = 2.0
    address: str = "127.0.0.1:50051"
    max_num_requests: int = 64
    max_num_queued: int = 256
    max_num_queued_tokens: int = 1_000_000
    # How long a request waits for an LLM replica to come back, and for one that is full.
    replica_wait_s: float | None = None  # by the model's size
    busy_wait_s: float = 10.0
    drain_timeout_s: float = 30.0
    # Time of one request from its permit to its end; None: as long as its client waits.
    max_request_s: float | None = None
    # How long a client may leave its stream unread. Its request ends then, since it holds a permit and KV slots.
    reader_timeout_s: float = 30.0
    # Requests of one connection served at once; None: three quarters of ``max_num_requests``, so that none has all.
    max_num_per_connection: int | None = None
    # Time after which a client is asked to connect anew; its requests go on. None: never.
    max_connection_age_s: float | None = None
    max_request_bytes: int = MAX_PUBLIC_REQUEST_BYTES
    trees: TreeConfig = TreeConfig()
    log_level: str = "INFO"
    log_format: str = "text"
    # A line for each request, whatever ``log_level`` is.
    logs_requests: bool = False
    server_tls: TlsFiles | None = None
    # To LLM and SSM services; None: in clear.
    services_tls: TlsFiles | None = None
    # Whoever asks needs one of them, by gRPC and HTTP; None: nobody does.
    api_keys: ApiKeys | None = None
    # Whether the chat template runs in a process of its own for short conversations, too, which can be ended whatever it does.
    renders_apart: bool = True
    # Whether the APIs tell what they have: gRPC's reflection, and HTTP's ``/docs`` and ``/openapi.json``.
    describes_itself: bool = True
    # A second address, without encryption and keys, for clients and health checks of this machine.
    local_address: str | None = None
    # One for health checks alone.
    health_address: str | None = None
    http: HttpConfig | None = None
    # vLLM's engine API beside our own, for gateways that speak it.
    has_vllm_engine_api: bool = False
    tracing: TracingConfig = NOWHERE
    metrics: MetricsConfig = MetricsConfig()
