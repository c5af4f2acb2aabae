"""Sampled outputs follow the verifier's distribution exactly, whatever was drafted: chi-square over many seeds."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from llm_service.config import VerifierConfig
from llm_service.verifier import VerifierEngine
from router.static_tree_policy import StaticTreePolicy
from specgrove.kernels.sampling import ChoiceParams, processed_log_probs
from specgrove.loop import planning
from specgrove.loop.request import GenerationRequest, SamplingParams
from specgrove.loop.speculation import Session
from specgrove.loop.works import TreeShape
from specgrove.program.loading import load_decoder
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from specgrove.runtime.step_loop import StepLoop
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam, Expansion
from ssm_service.lookup import LookupSsm
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import save_tiny_llama
from tests.patience import PatientVerifier, ReadingDrafter

VOCAB_SIZE = 6
PROMPT = (1, 4, 2, 5, 1, 4, 2)
NUM_TOKENS = 3
NUM_SEEDS = 1000
NUM_AT_ONCE = 100
MIN_P_VALUE = 1e-3

Loops = tuple[StepLoop, list[StepLoop], ModelRunner]


@pytest.fixture(scope="module")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loops]:
    """A verifier and two pools of different drafters, all with a toy vocabulary."""
    folders = [tmp_path_factory.mktemp(f"toy{seed}") for seed in range(3)]
    runners = [
        ModelRunner(load_decoder(save_tiny_llama(folder, seed=seed, vocab_size=VOCAB_SIZE), torch.float32), 4000)
        for seed, folder in enumerate(folders)
    ]
    verifier = StepLoop(VerifierEngine(runners[0], VerifierConfig(max_model_len=64)), "verifier")
    pools = [
        StepLoop(DrafterPool(ssms, PoolConfig()), "pool")
        for ssms in (
            [NeuralSsm("likely", runners[1], Beam(2), None), LookupSsm("lookup")],
            [NeuralSsm("other", runners[2], Expansion((2, 2)), None)],
        )
    ]
    yield verifier, pools, runners[0]
    for loop in (verifier, *pools):
        loop.stop()


async def sample(loops: Loops, seed: int, sampling: SamplingParams) -> tuple[tuple[int, ...], int]:
    """The output, and how many of its tokens were drafted."""
    verifier, pools, _ = loops
    request = GenerationRequest(f"{seed}", PROMPT, NUM_TOKENS, sampling)
    policy = StaticTreePolicy(TreeShape(6, 3))
    drafters = [ReadingDrafter(pool) for pool in pools]
    patient = PatientVerifier(verifier, drafters)
    async with Session(request, drafters, patient, policy, vocab_size=VOCAB_SIZE, max_model_len=64) as session:
        tokens = [token async for step in session for token in step.tokens]
    return tuple(token.token_id for token in tokens), sum(bool(token.drafted_by) for token in tokens)


async def sample_all(
    loops: Loops, make: type[SamplingParams], **settings: float
) -> tuple[Counter[tuple[int, ...]], int]:
    counts: Counter[tuple[int, ...]] = Counter()
    num_drafted = 0
    for start in range(0, NUM_SEEDS, NUM_AT_ONCE):
        calls = [sample(loops, seed, make(seed=seed, **settings)) for seed in range(start, start + NUM_AT_ONCE)]
        for output, drafted in await asyncio.gather(*calls):
            counts[output] += 1
            num_drafted += drafted
    return counts, num_drafted


def exact_distribution(runner: ModelRunner, **settings: float) -> dict[tuple[int, ...], float]:
    """Probabilities of all outputs, multiplied token by token."""
    fresh = ModelRunner(runner.decoder, 64)
    params = ChoiceParams(**settings)
    probabilities: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(NUM_TOKENS):
        longer = {}
        for output, probability in probabilities.items():
            token_ids = [*PROMPT, *output]
            builder = PassBuilder()
            builder.add([], tree=TreeRows(token_ids, range(-1, len(token_ids) - 1), range(len(token_ids))))
            row = processed_log_probs(fresh.forward(builder.build())[-1], params).exp()
            for token_id in range(VOCAB_SIZE):
                longer[*output, token_id] = probability * row[token_id].item()
        probabilities = longer
    return probabilities


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9}], ids=["plain", "top-p"])
def test_outputs_follow_the_target_distribution(
    loops: Loops, settings: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.stats import chisquare  # here: importing it takes a second of every process of tests

    monkeypatch.setattr(planning, "_LONG_PROMPT_LEN", 0)  # drafters read this one at once too
    counts, num_drafted = asyncio.run(sample_all(loops, SamplingParams, **settings))
    exact = exact_distribution(loops[2], **settings)
    assert not [output for output in counts if exact[output] == 0.0]
    assert num_drafted > NUM_SEEDS // 5, "hardly a drafted token was accepted: nothing is shown about trees"
    # Cells with few expected counts are thrown together, as the test's approximation asks for.
    frequent = [output for output, probability in exact.items() if probability * NUM_SEEDS >= 8]
    observed = [counts[output] for output in frequent]
    expected = [exact[output] * NUM_SEEDS for output in frequent]
    if NUM_SEEDS - sum(expected) >= 8:
        observed.append(NUM_SEEDS - sum(observed))
        expected.append(NUM_SEEDS - sum(expected))
    total = sum(expected)
    result = chisquare(observed, [value * sum(observed) / total for value in expected])
    assert len(observed) > 10
    assert result.pvalue > MIN_P_VALUE
