"""The settings of the router, the LLM service and the SSM service, and those of a suite itself.

A new one is declared here and nowhere else: command lines, YAML files, the Python API and docs/settings.md take it from here.
"""

from __future__ import annotations

from specgrove.config import (
    DEFAULT_ADDRESS,
    DEFAULT_DTYPE,
    DEFAULT_LLM,
    DEFAULT_SSMS,
    DEVICES,
    DTYPES,
    GPU_KERNELS,
    MAX_BEAM_WIDTH,
    MAX_GRPC_BYTES,
    MAX_NUM_REPLICAS,
    MAX_NUM_REQUESTS,
    MAX_NUM_THREADS,
    MAX_NUM_TREE_NODES,
    MAX_PUBLIC_REQUEST_BYTES,
    MAX_TREE_DEPTH,
    OFFLOADED_STEP_TIMEOUT_S,
    QUANTIZATIONS,
    STEP_TIMEOUT_S,
    TOOL_CALL_FORMATS,
)
from specgrove.cpus import available_cpus
from specgrove.folders import default_cache_dir
from specgrove.settings.setting import Setting
from specgrove.settings.values import (
    address,
    at_least,
    between,
    bytes_up_to,
    milliseconds,
    parse_bytes,
    path,
    positive_seconds,
    seconds,
    share,
    stages,
    tcp_address,
    texts,
    url,
)

_LOGGING = (
    Setting(
        "log-level", "what to log on stderr", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"), is_shared=True
    ),
    Setting(
        "log-format", "text for people, or one JSON object a line", "text", choices=("text", "json"), is_shared=True
    ),
)
_OBSERVING = (
    *_LOGGING,
    Setting(
        "otlp-endpoint",
        "where traces of requests go: an OpenTelemetry (OTLP) receiver, by gRPC, e.g. http://127.0.0.1:4317; unset: nowhere",
        None,
        url,
        metavar="URL",
        is_shared=True,
    ),
    Setting(
        "trace-sample-ratio",
        "with --otlp-endpoint: which part of the requests is traced, of those whose clients haven't decided it",
        1.0,
        share,
        metavar="SHARE",
        is_shared=True,
    ),
)
_METRICS_ADDRESS = Setting(
    "metrics-address",
    "where Prometheus reads metrics, in clear and for whoever reaches it; unset: nowhere",
    None,
    tcp_address,
    "HOST:PORT",
    is_of_suite=True,
)
_VLLM_NAMES = Setting(
    "metrics-vllm-names",
    "tell metrics under vLLM's names, too (vllm:num_requests_waiting), for gateways and dashboards that know those",
    False,
    is_switch=True,
    is_shared=True,
)
DRAIN = Setting(
    "drain-timeout-s", "time that requests may go on after SIGTERM", 30.0, seconds, metavar="S", is_shared=True
)
CACHE_DIR = Setting(
    "cache-dir",
    "where converted models are kept",
    default_cache_dir,
    path,
    metavar="DIR",
    is_shared=True,
    default_in_words="~/.cache/specgrove",
)
_MODEL_SERVICE = (
    Setting(
        "dtype",
        "what to compute in: of weights and KV caches",
        DEFAULT_DTYPE,
        choices=DTYPES,
        is_shared=True,
        is_common=True,
    ),
    Setting(
        "threads",
        "threads of the CPU kernels; those of the LLM service are for all its ranks and replicas together",
        available_cpus,
        between(1, MAX_NUM_THREADS),
        metavar="N",
        is_shared=True,
        is_common=True,
        default_in_words="all CPUs that there are",
    ),
    Setting("device", "where the models run; auto: on a GPU if there is one", "auto", choices=DEVICES, is_shared=True),
    Setting(
        "gpu-kernels",
        "on a GPU; auto: where they can run a model and pass a check at the start; off: ops of torch; require: nothing else",
        "auto",
        choices=GPU_KERNELS,
        is_shared=True,
    ),
    Setting(
        "session-ttl-s",
        "time after which an idle session is forgotten",
        300.0,
        positive_seconds,
        metavar="S",
        is_shared=True,
    ),
    Setting(
        "step-timeout-s",
        "time after which a step is taken to hang, and the service ends to be started again;"
        f" unset: {STEP_TIMEOUT_S:.0f}, with --offload {OFFLOADED_STEP_TIMEOUT_S:.0f}, more for LLMs of billions on a CPU",
        None,
        positive_seconds,
        metavar="S",
        is_shared=True,
    ),
    DRAIN,
    CACHE_DIR,
    _METRICS_ADDRESS,
    *_OBSERVING,
)


API_KEY_FILE = Setting(
    "api-key-file",
    "file with API keys, one a line: whoever asks, by gRPC or HTTP, needs one, as 'authorization: Bearer KEY'",
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
        "an LLM service; repeat for replicas of one model",
        None,
        address,
        metavar="ADDRESS",
        is_repeatable=True,
        is_of_suite=True,
    ),
    Setting(
        "ssm",
        "an SSM service; repeat for more, or leave out",
        None,
        address,
        metavar="ADDRESS",
        is_repeatable=True,
        is_of_suite=True,
    ),
    Setting("max-requests", "requests served at once", 64, between(1, MAX_NUM_REQUESTS), metavar="N"),
    Setting("max-queued", "requests that may wait for their turn", 256, between(0, MAX_NUM_REQUESTS), metavar="N"),
    Setting(
        "max-requests-per-connection",
        "of --max-requests those of one connection; unset: three quarters",
        None,
        at_least(1),
        metavar="N",
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
        "how long a request waits for a lost LLM service; large models load for minutes",
        300.0,
        seconds,
        metavar="S",
    ),
    Setting("busy-wait-s", "how long a request waits for an LLM service without room", 10.0, seconds, metavar="S"),
    DRAIN,
    API_KEY_FILE,
    Setting("tls-certificate", "PEM file; with --tls-private-key, clients connect by TLS", None, path, metavar="FILE"),
    Setting(
        "local-address",
        "a second address, without encryption and keys, for clients and health checks of this machine: unix:/path",
        None,
        address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting("tls-private-key", "PEM file", None, path, metavar="FILE"),
    Setting(
        "http-address",
        "where the OpenAI-compatible HTTP API listens, HOST:PORT or unix:/path; by TLS where clients of gRPC connect so; unset: nowhere",
        None,
        address,
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
    Setting("tls-client-ca", "PEM file; clients must have a certificate of this CA", None, path, metavar="FILE"),
    Setting("log-requests", "a line for each request that has ended, at any --log-level", False, is_switch=True),
    _METRICS_ADDRESS,
    _VLLM_NAMES,
    *_OBSERVING,
)

LLM = (
    Setting(
        "address",
        "HOST:PORT or unix:/path to listen on",
        "127.0.0.1:50052",
        address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting(
        "model",
        "the large model: a Hugging Face id, folder or .gguf file",
        DEFAULT_LLM,
        metavar="MODEL",
        short="llm",
        is_common=True,
    ),
    Setting(
        "quantization",
        "of the LLM's weights: made once and kept in --cache-dir",
        "none",
        choices=QUANTIZATIONS,
        is_common=True,
    ),
    Setting("tensor-parallel", "ranks that share every layer", 1, at_least(1), metavar="N"),
    Setting(
        "pipeline-parallel",
        "stages that the layers are divided over: their number, or each stage's number of layers",
        (1,),
        stages,
        metavar="N|L,L,...",
    ),
    Setting("kv-slots", "one-token KV slots, shared by all sessions", 32768, at_least(1), metavar="N"),
    Setting(
        "kv-memory", "memory of each rank's KV slots (2GiB), instead of --kv-slots", None, parse_bytes, metavar="BYTES"
    ),
    Setting(
        "memory-per-gpu",
        "all the memory that a rank may take, on a CPU too: KV slots get what is left; instead of --kv-slots",
        None,
        parse_bytes,
        metavar="BYTES",
    ),
    Setting(
        "offload",
        "weights that don't fit: on a GPU in the host's pinned memory, on a CPU in a file; fetched a layer ahead",
        False,
        is_switch=True,
    ),
    Setting(
        "max-weight-memory",
        "with --offload, and implies it: memory of each rank's weights; unset: what is available",
        None,
        parse_bytes,
        metavar="BYTES",
    ),
    Setting("offload-reserve-bytes", "with --offload: memory left to others", 1 << 30, parse_bytes, metavar="BYTES"),
    Setting(
        "max-model-len",
        "longest prompt + output in tokens; unset: what the model allows",
        None,
        at_least(2),
        metavar="N",
    ),
    Setting("max-chunk-tokens", "rows of one forward pass that prompts may fill", 256, at_least(1), metavar="N"),
    Setting(
        "max-tree-rows",
        "rows of one forward pass that token trees may fill; at least the nodes of one tree",
        512,
        at_least(MAX_NUM_TREE_NODES),
        metavar="N",
    ),
    Setting(
        "stream-interval-ms",
        "least time between two messages of an output decoded without trees: tokens go out together; 0: each at once",
        20.0,
        milliseconds,
        metavar="MS",
    ),
    _VLLM_NAMES,
    *_MODEL_SERVICE,
)

SSM = (
    Setting(
        "address",
        "HOST:PORT or unix:/path to listen on",
        "127.0.0.1:50053",
        address,
        "ADDRESS",
        is_of_suite=True,
    ),
    Setting(
        "ssm",
        "a small speculative model, repeatable: lookup, demo, or a folder, hub id or .gguf file, each with options after commas "
        "(mode=beam|expansion width=3 expansion=1-1-3-1-1 quantization=int8 name=NAME); none, in a suite: no SSM; "
        f"unset: {' and '.join(DEFAULT_SSMS)}, in a suite where they fit the LLM",
        None,
        metavar="SSM",
        is_repeatable=True,
        is_common=True,
    ),
    Setting("kv-slots", "one-token KV slots of each SSM, shared by all sessions", 32768, at_least(1), metavar="N"),
    *_MODEL_SERVICE,
)

SUITE = (
    Setting("llm-replicas", "LLM services to start", 1, between(1, MAX_NUM_REPLICAS), metavar="N", is_common=True),
    Setting(
        "start-timeout-s",
        "time that all services may take to get ready; unset: no limit while they load",
        None,
        positive_seconds,
        metavar="S",
        is_common=True,
    ),
    Setting(
        "metrics-address",
        "where Prometheus reads the router's metrics, in clear and for whoever reaches it; those of the SSM service at the next port, "
        "of the LLM services at the ports after it; unset: nowhere",
        None,
        tcp_address,
        metavar="HOST:PORT",
    ),
)

CHAT_PAGE = (
    Setting("address", "HOST:PORT or unix:/path to listen on", "127.0.0.1:7860", address, "ADDRESS"),
    Setting("router", "the router, by gRPC, without encryption and keys", DEFAULT_ADDRESS, address, "ADDRESS"),
    *_LOGGING,
)
"""Of ``python -m specgrove.web``, which routers start by themselves."""

SECTIONS: dict[str, tuple[Setting, ...]] = {"router": ROUTER, "llm": LLM, "ssm": SSM}
"""By the name that a service has in a YAML file, and before the dot in flags."""
