"""``python -m router``: the command line to a frozen ``RouterConfig``, and the process around the app."""

from __future__ import annotations

import specgrove.serving.grpc_environment  # noqa: F401  before anything imports grpc

# isort: split
import argparse
import sys
from collections.abc import Sequence

from router import request_log
from router.app import serve
from router.config import HttpConfig, MetricsConfig, RouterConfig, TreeConfig
from specgrove.serving import event_loop
from specgrove.serving.api_keys import ApiKeys
from specgrove.serving.tls import server_tls, services_tls
from specgrove.settings import parse_settings
from specgrove.telemetry.logs import set_up_logging
from specgrove.telemetry.tracing import TracingConfig

# A thread beside the event loop, as for long bodies and answers, gives the interpreter back after so long; Python's own is five times that.
_SWITCH_INTERVAL_S = 0.001


def config_of(arguments: Sequence[str] | None = None) -> RouterConfig:
    """Parses the command line; exits with a message when it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m router",
        description="The router: the public API of SpecGrove. It drafts with SSM services and verifies with LLM services.",
    )
    given = parse_settings(parser, "router", arguments)
    if not given.llm:
        parser.error("at least one --llm ADDRESS is needed")
    try:
        tls = server_tls(given.tls_certificate, given.tls_private_key, given.tls_client_ca)
        to_services = services_tls(
            given.services_tls_certificate, given.services_tls_private_key, given.services_tls_ca
        )
    except ValueError as error:
        parser.error(str(error))
    return RouterConfig(
        http=_http_of(given),
        api_keys=_keys_of(given, parser),
        metrics=MetricsConfig(given.metrics_address, given.metrics_vllm_names),
        llm_addresses=tuple(given.llm),
        ssm_addresses=tuple(given.ssm or ()),
        resolve_interval_s=given.resolve_interval_s,
        address=given.address,
        max_num_requests=given.max_requests,
        max_num_queued=given.max_queued,
        max_num_queued_tokens=given.max_queued_tokens,
        replica_wait_s=given.replica_wait_s,
        busy_wait_s=given.busy_wait_s,
        drain_timeout_s=given.drain_timeout_s,
        max_request_s=given.max_request_s,
        reader_timeout_s=given.reader_timeout_s,
        max_num_per_connection=given.max_requests_per_connection,
        max_connection_age_s=given.max_connection_age_s,
        max_request_bytes=given.max_request_bytes,
        trees=TreeConfig(
            given.max_tree_nodes, given.max_tree_depth, given.beam_width, is_adaptive=given.tree_policy == "adaptive"
        ),
        log_level=given.log_level,
        log_format=given.log_format,
        logs_requests=given.log_requests,
        server_tls=tls,
        services_tls=to_services,
        describes_itself=given.reflection == "on",
        local_address=given.local_address,
        health_address=given.health_address,
        has_vllm_engine_api=given.vllm_engine_api,
        tracing=TracingConfig(given.otlp_endpoint, given.trace_sample_ratio),
    )


def _http_of(given: argparse.Namespace) -> HttpConfig | None:
    if given.http_address is None:
        return None
    return HttpConfig(
        given.http_address,
        given.http_allowed_origins or (),
        given.tool_call_format,
        recommends_sampling=given.generation_config == "auto",
        has_page=given.http_chat_page == "auto",
        has_metrics=given.http_metrics == "on",
        served_names=tuple(given.served_model_name or ()),
    )


def _keys_of(given: argparse.Namespace, parser: argparse.ArgumentParser) -> ApiKeys | None:
    if given.api_key_file is None:
        return None
    try:
        return ApiKeys.in_file(given.api_key_file)
    except ValueError as error:
        parser.error(f"--api-key-file: {error}")


def main() -> None:
    """Runs until SIGTERM or SIGINT."""
    config = config_of()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    set_up_logging("router", config.log_level, config.log_format)
    if config.logs_requests:
        request_log.logger.setLevel("INFO")
    try:
        event_loop.run(serve(config))
    except (RuntimeError, OSError, ValueError) as error:
        sys.exit(f"router: {error}")


if __name__ == "__main__":
    main()
