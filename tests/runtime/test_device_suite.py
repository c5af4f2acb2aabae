"""Speculation with LLM and SSMs on the kernels for GPUs, in one process: the output is that of incremental decoding, token for token."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from router.static_tree_policy import StaticTreePolicy
from specgrove.kernels.device_memory import PassLimits
from specgrove.loop import drafting, planning
from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.speculation import Session
from specgrove.loop.works import TreeShape
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.graphs import CudaGraphs, NoGraphs
from specgrove.program.loading import load_decoder
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.step_loop import StepLoop
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam, Expansion
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.devices import DEVICES
from tests.models.families import DEVICE_VARIANTS, VOCAB_SIZE, save_tiny
from tests.patience import PatientVerifier, ReadingDrafter
from tests.waiting import LIMIT_S

PROMPTS = ((5, 1, 44, 90, 3, 3, 17), (8, 2, 8, 2, 8))
NUM_TOKENS = 8
SAMPLINGS = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=0.8, seed=3),
    "top-p": SamplingParams(temperature=0.9, top_p=0.9, seed=4, repetition_penalty=1.2),
}


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def loops(device: torch.device, tmp_path: Path) -> Iterator[tuple[StepLoop, StepLoop]]:
    """The verifier, and a pool of an SSM that knows what the LLM thinks, one that doesn't, and lookups."""
    for variant in ("llama", "qwen3"):
        save_tiny(variant, tmp_path / variant, DEVICE_VARIANTS)

    def runner(variant: str, max_num_rows: int) -> GraphRunner:
        decoder = load_decoder(tmp_path / variant, torch.bfloat16, store=DeviceWeights(device, has_kernels=True))
        limits = PassLimits(max_num_rows, max_num_rows, 64, 400)
        return GraphRunner(decoder, limits, CudaGraphs(device) if device.type == "cuda" else NoGraphs())

    verifier = StepLoop(VerifierEngine(runner("llama", 32), VerifierConfig(max_model_len=64)), "verifier")
    ssms = [
        NeuralSsm("same", runner("llama", 8), Beam(2), None),
        NeuralSsm("other", runner("qwen3", 8), Expansion((2, 1)), None),
        LookupSsm("lookup"),
    ]
    pool = StepLoop(DrafterPool(ssms, PoolConfig()), "pool")
    yield verifier, pool
    verifier.stop()
    pool.stop()


async def output(
    loops: tuple[StepLoop, StepLoop], index: int, sampling: SamplingParams, shape: TreeShape
) -> tuple[list[int], int]:
    """Token ids, and how many of them were drafted."""
    verifier, pool = loops
    request = GenerationRequest(f"{index}", PROMPTS[index], NUM_TOKENS, sampling)
    drafters = [ReadingDrafter(pool)] if shape.max_num_nodes else []
    patient = PatientVerifier(verifier, drafters)
    policy = StaticTreePolicy(shape)
    async with Session(request, drafters, patient, policy, vocab_size=VOCAB_SIZE, max_model_len=64) as session:
        tokens = [token async for step in session for token in step.tokens]
    return [token.token_id for token in tokens], sum(bool(token.drafted_by) for token in tokens)


async def outputs(
    loops: tuple[StepLoop, StepLoop], sampling: SamplingParams, shape: TreeShape
) -> list[tuple[list[int], int]]:
    return await asyncio.gather(*(output(loops, index, sampling, shape) for index in range(len(PROMPTS))))


def test_speculative_output_equals_incremental(
    loops: tuple[StepLoop, StepLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "_LONG_PROMPT_LEN", 0)  # drafters read these at once too
    for patience in ("_DRAFT_TIMEOUT_S", "_LATE_DRAFT_WAIT_S"):  # and are waited for, however slow the machine
        monkeypatch.setattr(drafting, patience, LIMIT_S)
    for sampling in SAMPLINGS.values():
        expected = asyncio.run(outputs(loops, sampling, TreeShape(0, 0)))
        found = asyncio.run(outputs(loops, sampling, TreeShape(6, 3)))
        assert [token_ids for token_ids, _ in found] == [token_ids for token_ids, _ in expected]
        assert sum(num_drafted for _, num_drafted in found) > NUM_TOKENS // 2
        assert not any(num_drafted for _, num_drafted in expected)
