"""Settings that several services have."""

from __future__ import annotations

from dataclasses import replace

from specgrove.config import (
    DEFAULT_DTYPE,
    DEVICES,
    DTYPES,
    GPU_KERNELS,
    MAX_NUM_THREADS,
    OFFLOADED_PASS_TIMEOUT_S,
    PASS_TIMEOUT_S,
)
from specgrove.machine.cpus import available_cpus
from specgrove.machine.folders import default_cache_dir
from specgrove.settings.setting import Setting
from specgrove.settings.values import address, between, path, positive_seconds, seconds, share, tcp_address, url

LOGGING = (
    Setting(
        "log-level", "what to log on stderr", "INFO", choices=("DEBUG", "INFO", "WARNING", "ERROR"), is_shared=True
    ),
    Setting(
        "log-format", "text for people, or one JSON object a line", "text", choices=("text", "json"), is_shared=True
    ),
)
OBSERVING = (
    *LOGGING,
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
METRICS_ADDRESS = Setting(
    "metrics-address",
    "where Prometheus reads metrics, in clear and for whoever reaches it; unset: nowhere",
    None,
    tcp_address,
    "HOST:PORT",
    is_of_suite=True,
)
VLLM_NAMES = Setting(
    "metrics-vllm-names",
    "tell metrics under vLLM's names, too (vllm:num_requests_waiting), for gateways and dashboards that know those",
    False,
    is_switch=True,
    is_shared=True,
)
HEALTH_ADDRESS = Setting(
    "health-address",
    "a further address for health checks alone, in clear and without keys: of Kubernetes' `grpc:` probes, for example; unset: nowhere",
    None,
    address,
    "ADDRESS",
)
TLS = (
    Setting(
        "tls-certificate",
        "PEM file; with --tls-private-key, connections are by TLS; read anew when it changes, as the other two are",
        None,
        path,
        metavar="FILE",
    ),
    Setting("tls-private-key", "PEM file without a passphrase", None, path, metavar="FILE"),
    Setting(
        "tls-client-ca", "PEM file; who connects must have a certificate of this CA (mTLS)", None, path, metavar="FILE"
    ),
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
MODEL_SERVICE = (
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
        "prefix-cache",
        "KV slots stay while nobody needs the room, so that prompts that begin alike are not computed again; it changes no output",
        True,
        is_switch=True,
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
        "pass-timeout-s",
        "time after which a forward pass is taken to hang, and the service ends to be started again;"
        f" unset: {PASS_TIMEOUT_S:.0f}, with --offload {OFFLOADED_PASS_TIMEOUT_S:.0f}, more for LLMs of billions on a CPU",
        None,
        positive_seconds,
        metavar="S",
        is_shared=True,
    ),
    DRAIN,
    CACHE_DIR,
    METRICS_ADDRESS,
    # The services of `specgrove serve` meet at private sockets, and its router's health tells of all.
    *(replace(setting, is_of_suite=True) for setting in (HEALTH_ADDRESS, *TLS)),
    *OBSERVING,
)
