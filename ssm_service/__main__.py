"""``python -m ssm_service``: reads the command line, loads the pool, serves until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

import torch

from specgrove.config import DEVICES, GPU_KERNELS
from specgrove.cpus import available_cpus
from specgrove.kernels.threads import set_num_threads
from specgrove.models.decoder import DTYPES
from specgrove.runtime.devices import choose_device
from specgrove.runtime.step_loop import StepLoop
from specgrove.serving.server import run_server
from specgrove.telemetry import set_up_logging
from specgrove.v1 import ssm_pb2, ssm_pb2_grpc
from ssm_service.config import SSM_SYNTAX, PoolConfig, SsmServiceConfig, parse_ssms
from ssm_service.loading import info_of, load_ssm
from ssm_service.pool import DrafterPool
from ssm_service.servicer import SsmServicer

logger = logging.getLogger("ssm_service")

_STOP_TIMEOUT_S = 5.0


def parse_arguments(argv: list[str] | None = None) -> SsmServiceConfig:
    """The configuration, or exit code 2 with the flag that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m ssm_service",
        description="Serves a pool of small speculative models (SSMs) that draft token trees over gRPC.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--address", default="127.0.0.1:50053", help="HOST:PORT or unix:/path to listen on")
    parser.add_argument(
        "--ssm",
        action="append",
        metavar="SPEC",
        default=argparse.SUPPRESS,
        help=f"an SSM, repeatable: {SSM_SYNTAX} (default: lookup and demo)",
    )
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(DTYPES), help="of weights and KV caches")
    parser.add_argument(
        "--device", default="auto", choices=DEVICES, help="where the models run; auto: on a GPU if there is one"
    )
    parser.add_argument(
        "--gpu-kernels",
        default="auto",
        choices=GPU_KERNELS,
        help="on a GPU; auto: where they can run a model and pass a check at the start; off: ops of torch; require: nothing else",
    )
    parser.add_argument("--threads", type=int, default=available_cpus(), help="threads of the CPU kernels")
    parser.add_argument(
        "--kv-slots", type=int, default=32768, help="one-token KV slots of each SSM, shared by all sessions"
    )
    parser.add_argument(
        "--session-ttl-s", type=float, default=300.0, help="seconds after which an idle session is forgotten"
    )
    parser.add_argument("--drain-timeout-s", type=float, default=30.0, help="seconds that work may go on after SIGTERM")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "specgrove", help="converted models")
    arguments = parser.parse_args(argv)
    for flag in ("threads", "kv_slots"):
        if getattr(arguments, flag) < 1:
            parser.error(f"--{flag.replace('_', '-')} must be at least 1")
    if not arguments.session_ttl_s > 0:
        parser.error("--session-ttl-s must be above 0")
    if not arguments.drain_timeout_s >= 0:
        parser.error("--drain-timeout-s must be at least 0")
    try:
        ssms = parse_ssms(getattr(arguments, "ssm", ["lookup", "demo"]))
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
        drain_timeout_s=arguments.drain_timeout_s,
    )


async def serve(config: SsmServiceConfig) -> None:
    """Loads the pool and serves it until a signal. Raises ``ValueError`` with what is wrong with a model."""
    torch.set_num_threads(1)  # the kernels have threads of their own
    set_num_threads(config.num_threads)
    device = choose_device(config.device, 0)
    ssms = [load_ssm(spec, config, device) for spec in config.ssms]
    pool = DrafterPool(ssms, PoolConfig(session_ttl_s=config.session_ttl_s))
    loop = StepLoop(pool, "pool")
    servicer = SsmServicer([info_of(spec, ssm) for spec, ssm in zip(config.ssms, ssms, strict=True)], pool, loop)
    try:
        await run_server(
            config.address,
            lambda server: ssm_pb2_grpc.add_SsmServiceServicer_to_server(servicer, server),
            service_names=(ssm_pb2.DESCRIPTOR.services_by_name["SsmService"].full_name,),
            drain=servicer.streams.drain,
            drain_timeout_s=config.drain_timeout_s,
            stopped=asyncio.wrap_future(loop.ended),
        )
    finally:
        has_ended = loop.stop(_STOP_TIMEOUT_S)
    if not has_ended:
        raise RuntimeError(f"the step under way has not ended in {_STOP_TIMEOUT_S:.0f} s")


def main() -> int:
    """Exit code 0 after a signal, 1 when the service can't start."""
    config = parse_arguments()
    set_up_logging("ssm_service")
    try:
        asyncio.run(serve(config))
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
