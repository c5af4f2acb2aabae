"""The SSM service from its settings to its end: loads the pool, and serves it. Imported by ``__main__`` when the settings are checked."""

from __future__ import annotations

import asyncio
import logging

import torch

from specgrove.kernels.threads import amx_refusal, get_isa, set_num_threads
from specgrove.machine.cpus import too_few_for
from specgrove.runtime.devices import choose_device, place_of
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving import event_loop
from specgrove.serving.health import Health
from specgrove.serving.server import run_server
from specgrove.telemetry.metrics.exposition import make_registry
from specgrove.telemetry.metrics.server import metrics_server
from specgrove.telemetry.tracing import set_up_tracing
from specgrove.v1 import ssm_pb2_grpc
from ssm_service.config import PoolConfig, SsmServiceConfig
from ssm_service.loading import info_of, load_ssm
from ssm_service.pool import DrafterPool
from ssm_service.servicer import SsmServicer

logger = logging.getLogger("ssm_service")

_STOP_TIMEOUT_S = 5.0


def run(config: SsmServiceConfig, health: Health) -> None:
    """Serves until a signal. Raises as ``serve`` does."""
    event_loop.run(serve(config, health))


async def serve(config: SsmServiceConfig, health: Health) -> None:
    """Loads the pool and serves it until a signal. Raises ``ValueError`` with what is wrong with a model."""
    torch.set_num_threads(1)  # the kernels have threads of their own
    set_num_threads(config.num_threads)
    device = choose_device(config.demand.device, 0)
    if device.type == "cpu":
        if (refusal := amx_refusal()) is not None:
            logger.warning("kernels use %s, not the processor's AMX: %s", get_isa(), refusal)
        if (crowding := too_few_for(f"{config.num_threads} threads", config.num_threads)) is not None:
            logger.warning("%s", crowding)
    ssms = [load_ssm(spec, config, device) for spec in config.ssms]
    pool = DrafterPool(ssms, PoolConfig(session_ttl_s=config.session_ttl_s))
    loop = StepLoop(pool, "pool", pass_timeout_s=config.pass_timeout_s)
    tracing = set_up_tracing("ssm_service", config.tracing)
    infos = [info_of(spec, ssm) for spec, ssm in zip(config.ssms, ssms, strict=True)]
    servicer = SsmServicer(
        infos, pool, loop, tracing, draft_ahead=config.draft_ahead, place=place_of(device, config.num_threads)
    )
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
                hang_timeout_s=config.pass_timeout_s,
            )
    finally:
        has_ended = loop.stop(_STOP_TIMEOUT_S)
        tracing.shut_down()
    if has_ended:
        pool.ssms.save()
    else:
        raise RuntimeError(f"the step under way has not ended in {_STOP_TIMEOUT_S:.0f} s")
