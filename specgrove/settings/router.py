"""The router's settings."""

from __future__ import annotations

from specgrove.config import (
    DEFAULT_ADDRESS,
    MAX_BEAM_WIDTH,
    MAX_GRPC_BYTES,
    MAX_NUM_REQUESTS,
    MAX_NUM_TREE_NODES,
    MAX_PUBLIC_REQUEST_BYTES,
    MAX_TREE_DEPTH,
    TOOL_CALL_FORMATS,
)
from specgrove.settings.setting import Setting
from specgrove.settings.shared import DRAIN, HEALTH_ADDRESS, METRICS_ADDRESS, OBSERVING, TLS, VLLM_NAMES
from specgrove.settings.values import (
    address,
    at_least,
    between,
    bytes_up_to,
    http_address,
    path,
    positive_seconds,
    seconds,
    service_address,
    texts,
)

API_KEY_FILE = Setting(
    "api-key-file",
    "file with API keys as `specgrove key` writes them, one a line, with their limits: whoever asks, by gRPC or HTTP, needs one, as"
    " 'authorization: Bearer KEY'; read anew when it changes",
    None,
    path,
    metavar="FILE",
)
ROUTER = (
    Setting(
        "address",
        "where clients connect by gRPC, HOST:PORT or unix:/path",
        DEFAULT_ADDRESS,
        address,
        "ADDRESS",
        short="grpc-address",
    ),
    Setting(
        "llm",
        "an LLM service, or by dns:NAME:PORT one at each address of a name; repeat for replicas of one model",
        None,
        service_address,
        metavar="ADDRESS",
        is_repeatable=True,
        is_of_suite=True,
    ),
    Setting(
        "ssm",
        "an SSM service, or by dns:NAME:PORT one at each address of a name; repeat for more, or leave out",
        None,
        service_address,
        metavar="ADDRESS",
        is_repeatable=True,
        is_of_suite=True,
    ),
    Setting(
        "resolve-interval-s",
        "how often the names of services given as dns:NAME:PORT are resolved again",
        2.0,
        positive_seconds,
        metavar="S",
        is_of_suite=True,
    ),
    Setting("max-requests", "requests served at once", 64, between(1, MAX_NUM_REQUESTS), metavar="N"),
    Setting("max-queued", "requests that may wait for their turn", 256, between(0, MAX_NUM_REQUESTS), metavar="N"),
    Setting(
        "max-queued-tokens",
        "about so many tokens the prompts of requests that wait may have together; a token for each 4 bytes of text",
        1_000_000,
        at_least(1),
        metavar="N",
    ),
    Setting(
        "max-requests-per-connection",
        "of --max-requests those of one connection; unset: three quarters",
        None,
        at_least(1),
        metavar="N",
    ),
    Setting(
        "max-connection-age-s",
        "time after which a gRPC client is asked to connect anew, so that routers that are added behind one address get clients, too;"
        " its requests go on where they are; unset: never",
        None,
        positive_seconds,
        metavar="S",
    ),
    Setting(
        "max-request-bytes",
        "size of a request's message",
        MAX_PUBLIC_REQUEST_BYTES,
        bytes_up_to(MAX_GRPC_BYTES),
        metavar="BYTES",
    ),
    Setting(
        "max-request-s",
        "time that one request may take; unset: as long as its client waits",
        None,
        positive_seconds,
        metavar="S",
    ),
    Setting(
        "reader-timeout-s",
        "time that a client may leave its stream unread before its request is ended",
        30.0,
        positive_seconds,
        metavar="S",
    ),
    Setting(
        "max-tree-nodes",
        "nodes per tree, root not counted; 0: none",
        32,
        between(0, MAX_NUM_TREE_NODES - 1),
        metavar="N",
    ),
    Setting("max-tree-depth", "depth of the trees", 8, between(1, MAX_TREE_DEPTH), metavar="N"),
    Setting(
        "beam-width", "nodes expanded per level; unset: each SSM's own", None, between(1, MAX_BEAM_WIDTH), metavar="N"
    ),
    Setting(
        "tree-policy",
        "adaptive: size the trees by measurement, up to the limits above; static: always ask for the limits",
        "adaptive",
        choices=("adaptive", "static"),
    ),
    Setting(
        "replica-wait-s",
        "how long a request waits for a lost LLM service; unset: 300, more for LLMs of tens of billions, which load for long",
        None,
        seconds,
        metavar="S",
    ),
    Setting("busy-wait-s", "how long a request waits for an LLM service without room", 10.0, seconds, metavar="S"),
    DRAIN,
    API_KEY_FILE,
    Setting(
        "reflection",
        "whether the APIs describe themselves to whoever asks, without a key: gRPC's reflection, and HTTP's /docs and /openapi.json",
        "on",
        choices=("on", "off"),
    ),
    *TLS,
    Setting(
        "services-tls-ca",
        "PEM file; connections to LLM and SSM services are by TLS, and their certificates must be of this CA; read anew when it changes, "
        "as the other two are",
        None,
        path,
        metavar="FILE",
        is_of_suite=True,
    ),
    Setting(
        "services-tls-certificate",
        "PEM file, for services with --tls-client-ca (mTLS)",
        None,
        path,
        metavar="FILE",
        is_of_suite=True,
    ),
    Setting("services-tls-private-key", "PEM file without a passphrase", None, path, metavar="FILE", is_of_suite=True),
    Setting(
        "local-address",
        "a second address, without encryption and keys, for clients and health checks of this machine: unix:/path",
        None,
        address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting(
        "http-address",
        "where the OpenAI-compatible HTTP API listens, HOST:PORT or unix:/path; by TLS where clients of gRPC connect so; unset: nowhere",
        None,
        http_address,
        "ADDRESS",
    ),
    Setting(
        "http-allowed-origins",
        "web pages that browsers may use the HTTP API from (CORS), e.g. https://a.example,https://b.example, or *",
        None,
        texts,
        metavar="ORIGIN,...",
    ),
    Setting(
        "generation-config",
        "of HTTP requests: sampling parameters that are left out are those of the model's generation_config.json (auto),"
        " or the API's own (none)",
        "auto",
        choices=("auto", "none"),
    ),
    Setting(
        "http-chat-page",
        "auto: `/` of the HTTP address is a page to chat with, where Gradio is installed; off: there is none",
        "auto",
        choices=("auto", "off"),
    ),
    Setting(
        "http-metrics",
        "whether the HTTP address has /metrics, for whoever may ask there; off: metrics are at --metrics-address alone",
        "on",
        choices=("on", "off"),
    ),
    Setting(
        "vllm-engine-api",
        "serve vLLM's engine API too, on the same address: gateways such as smg can route to this router then",
        False,
        is_switch=True,
    ),
    Setting(
        "tool-call-format",
        "how the model writes calls of tools, which the HTTP API tells apart from text; auto: as its chat template shows",
        "auto",
        choices=TOOL_CALL_FORMATS,
    ),
    Setting("log-requests", "a line for each request that has ended, at any --log-level", False, is_switch=True),
    HEALTH_ADDRESS,
    METRICS_ADDRESS,
    VLLM_NAMES,
    *OBSERVING,
)
