"""``python -m benchmarks.gpu.replayed_llm_service``: the real LLM service over a model of random weights that agrees as a trace says.

Started by ``benchmarks.gpu.end_to_end``. Everything but the weights and the rewritten choices is the service's own: arguments, verifier,
scheduler, captured graphs, gRPC. On the CPU the kernels for GPUs run in their emulator.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

import torch

from benchmarks.gpu.models import SHAPES, decoder_of
from benchmarks.gpu.replay import ReplayedRunner
from benchmarks.gpu.trace import TRACE, Trace
from llm_service.arguments import parse_arguments
from llm_service.config import SERVICE_NAME
from llm_service.service import serve
from specgrove.kernels.device_memory import PassLimits
from specgrove.kernels.threads import set_num_threads
from specgrove.program.graphs import CudaGraphs, NoGraphs
from specgrove.runtime.devices import choose_device, runner_for
from specgrove.serving.health import Health
from specgrove.telemetry.logs import set_up_logging

logger = logging.getLogger("replayed_llm_service")


def main() -> int:
    """Exit code 0 after a signal, 1 when the service can't start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.replayed_llm_service", description=__doc__)
    parser.add_argument("--shape", choices=tuple(SHAPES), required=True)
    parser.add_argument("--bits", type=int, choices=(4, 8, 16), default=16)
    parser.add_argument("--trace", type=Path, default=TRACE)
    parser.add_argument(
        "--max-graph-rows", type=int, default=1 << 20, help="so that the emulator captures fewer graphs"
    )
    own, others = parser.parse_known_args()  # the others are the LLM service's; --model is the folder of the tokenizer
    config = parse_arguments(others)
    set_up_logging("replayed_llm_service")
    try:
        torch.set_num_threads(1)  # as the service does
        set_num_threads(config.num_threads)
        device = choose_device(config.demand.device, 0)
        decoder = decoder_of(SHAPES[own.shape], device, own.bits)
        limits = PassLimits(
            max_num_rows=min(config.demand.max_num_chunk_tokens + config.demand.max_num_tree_rows, own.max_graph_rows),
            max_num_asked=min(config.demand.max_num_tree_rows, own.max_graph_rows),
            max_model_len=min(decoder.spec.longest_sequence(config.demand.max_model_len), config.demand.num_slots),
            num_slots=config.demand.num_slots,
        )
        make_graphs = CudaGraphs if device.type == "cuda" else lambda device: NoGraphs()
        runner = ReplayedRunner(
            runner_for(decoder, limits, config.demand.gpu_kernels, make_graphs), Trace.read(own.trace)
        )
        asyncio.run(serve(config, Health([SERVICE_NAME]), Path(config.model), runner, None))
    except (ValueError, OSError, RuntimeError) as error:
        logger.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
