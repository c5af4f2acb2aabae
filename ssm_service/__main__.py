"""``python -m ssm_service``: reads the command line, loads the pool, serves until told to stop."""

from __future__ import annotations

import specgrove.quiet_grpc  # noqa: F401  before anything imports grpc

# isort: split
import argparse
import asyncio
import logging
import os
import sys

import torch

from specgrove.config import DEFAULT_SSMS, STEP_TIMEOUT_S
from specgrove.cpus import too_few_for
from specgrove.folders import provide_home
from specgrove.kernels.threads import amx_refusal, get_isa, set_num_threads
from specgrove.metrics.exposition import make_registry
from specgrove.metrics.server import metrics_server
from specgrove.models.hub import check_named
from specgrove.runtime.devices import choose_device
from specgrove.runtime.step_loop import HungEngineError, StepLoop
from specgrove.serving.health import Health
from specgrove.serving.health_server import health_server
from specgrove.serving.listening import check_can_listen
from specgrove.serving.server import run_server
from specgrove.serving.tls import server_tls
from specgrove.settings import parse_settings
from specgrove.ssm_specs import parse_ssms
from specgrove.starting import ended_by_signals
from specgrove.telemetry import set_up_logging
from specgrove.tracing import TracingConfig, set_up_tracing
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from ssm_service.config import PoolConfig, SsmServiceConfig
from ssm_service.loading import info_of, load_ssm
from ssm_service.pool import DrafterPool
from ssm_service.servicer import SsmServicer

logger = logging.getLogger("ssm_service")

SERVICE_NAME = ssm_pb2.DESCRIPTOR.services_by_name["SsmService"].full_name
_STOP_TIMEOUT_S = 5.0


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
        dtype=arguments.dtype,
        device=arguments.device,
        gpu_kernels=arguments.gpu_kernels,
        cache_dir=arguments.cache_dir,
        num_threads=arguments.threads,
        num_slots=arguments.kv_slots,
        session_ttl_s=arguments.session_ttl_s,
        step_timeout_s=arguments.step_timeout_s or STEP_TIMEOUT_S,
        drain_timeout_s=arguments.drain_timeout_s,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        tracing=TracingConfig(arguments.otlp_endpoint, arguments.trace_sample_ratio),
        metrics_address=arguments.metrics_address,
        health_address=arguments.health_address,
        tls=tls,
    )


async def serve(config: SsmServiceConfig, health: Health) -> None:
    """Loads the pool and serves it until a signal. Raises ``ValueError`` with what is wrong with a model."""
    torch.set_num_threads(1)  # the kernels have threads of their own
    set_num_threads(config.num_threads)
    device = choose_device(config.device, 0)
    if device.type == "cpu":
        if (refusal := amx_refusal()) is not None:
            logger.warning("kernels use %s, not the processor's AMX: %s", get_isa(), refusal)
        if (crowding := too_few_for(f"{config.num_threads} threads", config.num_threads)) is not None:
            logger.warning("%s", crowding)
    for spec in config.ssms:
        if spec.model is not None:
            check_named(spec.model, needs_tokenizer=False)  # all of them, before the first is loaded
    ssms = [load_ssm(spec, config, device) for spec in config.ssms]
    pool = DrafterPool(ssms, PoolConfig(session_ttl_s=config.session_ttl_s))
    loop = StepLoop(pool, "pool", step_timeout_s=config.step_timeout_s)
    tracing = set_up_tracing("ssm_service", config.tracing)
    infos = [info_of(spec, ssm) for spec, ssm in zip(config.ssms, ssms, strict=True)]
    servicer = SsmServicer(infos, pool, loop, tracing)
    sources = (servicer.load.readings, pool.counts.readings, servicer.streams.readings)
    try:
        with metrics_server(config.metrics_address, make_registry("ssm_service", sources)):
            await run_server(
                config.address,
                lambda server: ssm_pb2_grpc.add_SsmServiceServicer_to_server(servicer, server),
                health=health,
                drain=servicer.streams.drain,
                cut_off=servicer.streams.cut_off,
                drain_timeout_s=config.drain_timeout_s,
                tls=config.tls,
                stopped=asyncio.wrap_future(loop.ended),
                hang_timeout_s=config.step_timeout_s,
            )
    finally:
        has_ended = loop.stop(_STOP_TIMEOUT_S)
        tracing.shut_down()
    if not has_ended:
        raise RuntimeError(f"the step under way has not ended in {_STOP_TIMEOUT_S:.0f} s")


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
            asyncio.run(serve(config, health))
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
