"""``python -m ssm_service``: reads the command line, finds the models, and says what is wrong with them before torch is imported."""

from __future__ import annotations

import specgrove.serving.grpc_environment  # noqa: F401  before anything imports grpc

# isort: split
import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from specgrove.config import DEFAULT_SSMS, PASS_TIMEOUT_S
from specgrove.machine.folders import provide_home
from specgrove.models.folders.hub import check_named, resolve_model
from specgrove.models.hidden_state.recognition import reads_hidden_states
from specgrove.models.planning.ssm_fitting import FoundSsm, SsmDemand, check_ssms_before_start, found_ssm
from specgrove.runtime.step_loop import HungEngineError
from specgrove.serving.health import Health
from specgrove.serving.health_server import health_server
from specgrove.serving.listening import check_can_listen
from specgrove.serving.starting import ended_by_signals
from specgrove.serving.tls import server_tls
from specgrove.settings import parse_settings
from specgrove.settings.setting import attribute_of
from specgrove.settings.ssm_specs import parse_ssms
from specgrove.telemetry.logs import set_up_logging
from specgrove.telemetry.tracing import TracingConfig
from ssm_service.config import SERVICE_NAME, SsmServiceConfig

logger = logging.getLogger("ssm_service")


def parse_arguments(argv: list[str] | None = None) -> SsmServiceConfig:
    """The configuration, or exit code 2 with the flag that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m ssm_service",
        description="Serves a pool of small speculative models (SSMs) that draft token trees over gRPC.",
    )
    arguments = parse_settings(parser, "ssm", argv)
    try:
        ssms = parse_ssms(arguments.ssm or DEFAULT_SSMS)
        tls = server_tls(arguments.tls_certificate, arguments.tls_private_key, arguments.tls_client_ca)
    except ValueError as error:
        parser.error(str(error))
    return SsmServiceConfig(
        address=arguments.address,
        ssms=ssms,
        demand=SsmDemand.of(lambda name: getattr(arguments, attribute_of(name))),
        cache_dir=arguments.cache_dir,
        num_threads=arguments.threads,
        session_ttl_s=arguments.session_ttl_s,
        pass_timeout_s=arguments.pass_timeout_s or PASS_TIMEOUT_S,
        drain_timeout_s=arguments.drain_timeout_s,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        llm_model=arguments.llm_model,
        has_prefix_cache=arguments.prefix_cache,
        draft_ahead=arguments.draft_ahead,
        tracing=TracingConfig(arguments.otlp_endpoint, arguments.trace_sample_ratio),
        metrics_address=arguments.metrics_address,
        health_address=arguments.health_address,
        tls=tls,
    )


def check_models(config: SsmServiceConfig) -> None:
    """All of them, before the first is loaded. Raises ``ValueError`` and ``OSError``."""
    specs = [spec for spec in config.ssms if spec.model is not None]
    for spec in specs:
        check_named(spec.model or "", needs_tokenizer=False)
    found = [found_ssm(spec, config.cache_dir, logger.info) for spec in specs]
    check_ssms_before_start(config.demand, found, llm_folder_of(config, found))


def llm_folder_of(config: SsmServiceConfig, found: Sequence[FoundSsm]) -> Path | None:
    """The LLM's, where an SSM reads its hidden states; fetched or made if need be. Raises ``ModelNotFoundError``."""
    if config.llm_model is None or not any(reads_hidden_states(ssm.folder) for ssm in found):
        return None
    return resolve_model(config.llm_model, cache_dir=config.cache_dir, progress=logger.info)


def main() -> int:
    """Exit code 0 after a signal, 1 when the service can't start."""
    config = parse_arguments()
    set_up_logging("ssm_service", config.log_level, config.log_format)
    try:
        provide_home()
        for address in config.addresses:
            check_can_listen(address)  # loading may take minutes
        health = Health([SERVICE_NAME])
        with ended_by_signals(), health_server(config.health_address, health):
            check_models(config)
            from ssm_service.service import run  # brings torch

            run(config, health)
    except HungEngineError as error:
        logger.error("%s; ending, to be started again", error)
        sys.stderr.flush()
        os._exit(1)  # whatever waits for its thread would wait for ever
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
