"""The LLM on GPUs: speculation changes no token there either, offloaded or quantised, nor do the ranks of NCCL."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import torch

from benchmarks.equality import MODES, SAMPLINGS
from specgrove.loop.request import SpeculationOptions
from specgrove.suite.processes import Suite, SuiteConfig
from tests.end_to_end.test_equality import outputs

pytestmark = pytest.mark.gpu
CUDA = ("--device", "cuda")
KERNELS = (*CUDA, "--gpu-kernels", "require")


def check_equality(suite: Suite, max_tokens: int = 32) -> None:
    for sampling in SAMPLINGS:
        expected = asyncio.run(outputs(suite, sampling, SpeculationOptions(disabled=True), max_tokens))
        found = asyncio.run(outputs(suite, sampling, MODES["merged"], max_tokens))
        assert [completion.token_ids for completion in found] == [completion.token_ids for completion in expected]
        assert sum(completion.usage.num_drafted_nodes for completion in found) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("arguments", [(), ("--offload", "--max-weight-memory", "100MB")])
def test_speculative_output_equals_incremental(demo_llm: Path, dtype: str, arguments: tuple[str, ...]) -> None:
    device = CUDA if dtype == "float32" else KERNELS
    config = SuiteConfig(llm_folder=demo_llm, dtype=dtype, llm_arguments=(*device, *arguments), ssm_arguments=device)
    with Suite(config) as suite:
        check_equality(suite)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_quantised_weights(demo_llm: Path, quantization: str) -> None:
    config = SuiteConfig(llm_folder=demo_llm, llm_arguments=(*KERNELS, "--quantization", quantization))
    with Suite(config) as suite:
        check_equality(suite)


@pytest.mark.parametrize(("tensor_parallel", "pipeline_parallel"), [(2, "1"), (1, "10,20")])
def test_ranks_over_nccl(demo_llm: Path, tensor_parallel: int, pipeline_parallel: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    config = SuiteConfig(
        llm_folder=demo_llm, dtype="float32",
        llm_arguments=(*CUDA, "--tensor-parallel", str(tensor_parallel), "--pipeline-parallel", pipeline_parallel),
    )  # fmt: skip
    with Suite(config) as suite:
        check_equality(suite)
