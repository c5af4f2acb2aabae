"""The command line of ``python -m llm_service``: flags to ``LlmServiceConfig``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from llm_service.config import LlmServiceConfig, Offload
from specgrove.models.parallel_layout import ParallelLayout
from specgrove.serving.tls import server_tls
from specgrove.settings import parse_settings
from specgrove.tracing import TracingConfig


def parse_arguments(argv: Sequence[str] | None = None) -> LlmServiceConfig:
    """The configuration, or exit code 2 with the flag that is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m llm_service", description="Serves a large model as token-tree verifier over gRPC."
    )
    arguments = parse_settings(parser, "llm", argv)
    try:
        tls = server_tls(arguments.tls_certificate, arguments.tls_private_key, arguments.tls_client_ca)
    except ValueError as error:
        parser.error(str(error))
    return LlmServiceConfig(
        address=arguments.address,
        model=arguments.model,
        dtype=arguments.dtype,
        device=arguments.device,
        gpu_kernels=arguments.gpu_kernels,
        quantization=arguments.quantization,
        cache_dir=arguments.cache_dir,
        layout=_layout(arguments),
        num_threads=arguments.threads,
        num_slots=arguments.kv_slots,
        kv_memory_bytes=arguments.kv_memory,
        memory_per_rank_bytes=arguments.memory_per_gpu,
        offload=_offload(arguments),
        max_model_len=arguments.max_model_len,
        max_num_chunk_tokens=arguments.max_chunk_tokens,
        max_num_tree_rows=arguments.max_tree_rows,
        session_ttl_s=arguments.session_ttl_s,
        stream_interval_s=arguments.stream_interval_ms / 1e3,
        step_timeout_s=arguments.step_timeout_s,
        drain_timeout_s=arguments.drain_timeout_s,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        tracing=TracingConfig(arguments.otlp_endpoint, arguments.trace_sample_ratio),
        metrics_address=arguments.metrics_address,
        has_vllm_metrics=arguments.metrics_vllm_names,
        health_address=arguments.health_address,
        tls=tls,
    )


def _offload(arguments: argparse.Namespace) -> Offload | None:
    if arguments.max_weight_memory is None and not arguments.offload:
        return None
    return Offload(arguments.max_weight_memory, arguments.offload_reserve_bytes)


def _layout(arguments: argparse.Namespace) -> ParallelLayout:
    """``--pipeline-parallel`` is a number of stages, or the numbers of their layers."""
    numbers = arguments.pipeline_parallel
    if len(numbers) == 1:
        return ParallelLayout(arguments.tensor_parallel, numbers[0])
    return ParallelLayout(arguments.tensor_parallel, len(numbers), numbers)
