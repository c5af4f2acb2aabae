"""What settings of one service must be together. Asked by the service, and by commands before they start one."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from specgrove.machine.gpus import check_gpu_wanted, may_have_gpu

ValueOf = Callable[[str], Any]
"""A setting's value by its name."""


def check_together(section: str, value_of: ValueOf) -> None:
    """Raises ``ValueError`` that names the service's flags."""
    _check_packages(section, value_of)
    _check_addresses(section, value_of)
    if section == "router":
        _check_router(value_of)
        return
    if section == "llm":
        _check_llm(value_of)
    check_gpu_wanted(value_of("device"), value_of("gpu-kernels"), has_gpu=may_have_gpu())


def _check_addresses(section: str, value_of: ValueOf) -> None:
    flags: dict[str, list[str]] = {}
    more = ("http-address", "local-address") if section == "router" else ()
    for name in ("address", "health-address", "metrics-address", *more):
        if (address := value_of(name)) is not None:
            flags.setdefault(address, []).append(f"--{name}")
    for address, same in flags.items():
        # Port 0 is another one each time.
        if len(same) > 1 and not address.endswith(":0"):
            raise ValueError(f"{' and '.join(same)} are the same, {address}; give two")


def _check_packages(section: str, value_of: ValueOf) -> None:
    """What is left out of a plain install."""
    if value_of("otlp-endpoint") is not None and not is_installed("opentelemetry.exporter.otlp.proto.grpc"):
        raise ValueError("--otlp-endpoint needs OpenTelemetry's packages: pip install 'specgrove[tracing]'")
    if section == "router" and value_of("vllm-engine-api") and not is_installed("smg_grpc_proto"):
        raise ValueError("--vllm-engine-api needs the package smg-grpc-proto: pip install 'specgrove[gateways]'")


def is_installed(module: str) -> bool:
    """Without importing it; packages that it lies in may be missing, too."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _check_llm(value_of: ValueOf) -> None:
    if value_of("kv-memory") is not None and value_of("memory-per-gpu") is not None:
        raise ValueError("--kv-memory and --memory-per-gpu both set the number of KV slots: give one of them")


def _check_router(value_of: ValueOf) -> None:
    of_one, of_all = value_of("max-requests-per-connection"), value_of("max-requests")
    if of_one is not None and of_one > of_all:
        raise ValueError(
            f"--max-requests-per-connection {of_one} is more than --max-requests {of_all}: give {of_all} at most"
        )
    if value_of("http-address") is None and value_of("http-allowed-origins"):
        raise ValueError("--http-allowed-origins needs --http-address: by gRPC there are no web pages")
