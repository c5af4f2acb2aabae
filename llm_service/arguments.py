"""The command line of ``python -m llm_service``: flags to ``LlmServiceConfig``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llm_service.config import LlmServiceConfig
from specgrove.kernels.threads import check_isa
from specgrove.models.planning.demand import ModelDemand
from specgrove.serving.tls import server_tls
from specgrove.settings import parse_settings
from specgrove.settings.setting import attribute_of
from specgrove.telemetry.tracing import TracingConfig


def parse_arguments(argv: Sequence[str] | None = None) -> LlmServiceConfig:
    """The configuration, or exit code 2 with the flag that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_service", description="Serves a large model as token-tree verifier over gRPC."
    )
    arguments = parse_settings(parser, "llm", argv)
    try:
        tls = server_tls(arguments.tls_certificate, arguments.tls_private_key, arguments.tls_client_ca)
        if arguments.instruction_set != "auto":
            check_isa(arguments.instruction_set)
    except ValueError as error:
        parser.error(str(error))
    return LlmServiceConfig(
        address=arguments.address,
        model=arguments.model,
        demand=ModelDemand.of(lambda name: getattr(arguments, attribute_of(name))),
        cache_dir=arguments.cache_dir,
        num_threads=arguments.threads,
        isa=None if arguments.instruction_set == "auto" else arguments.instruction_set,
        session_ttl_s=arguments.session_ttl_s,
        stream_interval_s=arguments.stream_interval_ms / 1e3,
        pass_timeout_s=arguments.pass_timeout_s,
        drain_timeout_s=arguments.drain_timeout_s,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        tracing=TracingConfig(arguments.otlp_endpoint, arguments.trace_sample_ratio),
        metrics_address=arguments.metrics_address,
        has_prefix_cache=arguments.prefix_cache,
        has_vllm_metrics=arguments.metrics_vllm_names,
        health_address=arguments.health_address,
        tls=tls,
    )
