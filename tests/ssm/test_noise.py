"""Trees for sampled sessions: an SSM that is the LLM drafts what the LLM will choose, by its seed and at its places."""

from __future__ import annotations

import pytest
import torch

from specgrove.kernels.sampling import ChoiceParams, choose
from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling
from specgrove.loop.works import DraftWork, TreeShape
from specgrove.models.hidden_state.spec import Calibration
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder
from ssm_service.config import PoolConfig
from ssm_service.draft_tree import Beam
from ssm_service.draft_vocab import DraftVocab
from ssm_service.neural import NeuralSsm
from ssm_service.pool import DrafterPool
from tests.conftest import TINY_VOCAB_SIZE
from tests.ssm.pools import PROMPT, ask

DEPTH = 4
CHAIN = TreeShape(max_num_nodes=DEPTH, max_depth=DEPTH)


def chosen_by_verifier(runner: ModelRunner, sampling: DraftSampling | None, num_tokens: int) -> list[int]:
    """Incremental decoding, as the LLM service does it."""
    params = (
        ChoiceParams() if sampling is None else ChoiceParams(sampling.temperature, sampling.top_k, seed=sampling.seed)
    )
    token_ids = list(PROMPT)
    for _ in range(num_tokens):
        builder = PassBuilder()
        builder.add(range(len(token_ids)), token_ids, chunk_logits=True)
        token_ids.append(choose(runner.forward(builder.build())[0], params, len(token_ids)))
    return token_ids[len(PROMPT) :]


def drafted(
    runner: ModelRunner, sampling: DraftSampling | None, noise_weight: float = 1.0, vocab: DraftVocab | None = None
) -> TokenTree:
    ssm = NeuralSsm("same", runner, Beam(1), vocab, calibration=Calibration(noise_weight=noise_weight))
    (found,) = ask(DrafterPool([ssm], PoolConfig()), DraftWork("s", 0, PROMPT, CHAIN, sampling=sampling)).trees
    return found.tree


@pytest.mark.parametrize("seed", [1, 7, 2**63 + 11])
def test_the_llms_own_choices_are_drafted(runners: list[ModelRunner], seed: int) -> None:
    sampling = DraftSampling(1.5, seed)
    choices = chosen_by_verifier(runners[0], sampling, DEPTH)
    assert list(drafted(runners[0], sampling).token_ids) == [PROMPT[-1], *choices]
    greedy = chosen_by_verifier(runners[0], None, DEPTH)
    assert list(drafted(runners[0], None).token_ids) == [PROMPT[-1], *greedy]
    assert list(drafted(runners[0], sampling, noise_weight=0.0).token_ids) == [PROMPT[-1], *greedy]
    assert choices != greedy


def test_top_k_leaves_out_what_the_verifier_can_not_choose(runners: list[ModelRunner]) -> None:
    sampling = DraftSampling(5.0, 3, top_k=2)
    tree = drafted(runners[0], sampling)
    assert list(tree.token_ids[1:]) == chosen_by_verifier(runners[0], sampling, DEPTH)


def test_noise_is_that_of_the_llms_ids(runners: list[ModelRunner]) -> None:
    """An SSM with other ids for the same tokens: drafted with the noise of its own, the tree would be another."""
    sampling = DraftSampling(0.3, 5)
    shift = 1000
    ids = torch.arange(TINY_VOCAB_SIZE, dtype=torch.int32) + shift
    ssm = NeuralSsm("mapped", runners[0], Beam(1), DraftVocab(ids), calibration=Calibration(noise_weight=1.0))
    pool = DrafterPool([ssm], PoolConfig())
    prompt = tuple(token_id + shift for token_id in PROMPT)
    (found,) = ask(pool, DraftWork("s", 0, prompt, TreeShape(1, 1), sampling=sampling)).trees
    builder = PassBuilder()
    builder.add(range(len(PROMPT)), list(PROMPT), chunk_logits=True)
    logits = torch.full((shift + TINY_VOCAB_SIZE,), -torch.inf)
    logits[shift + 1 :] = runners[0].forward(builder.build())[0][1:]
    assert found.tree.token_ids[1] == choose(logits, ChoiceParams(0.3, seed=5), len(PROMPT))


def test_sampling_comes_once_and_stays_with_its_session(runners: list[ModelRunner]) -> None:
    """Sessions of one pass are drafted for each by its own seed, greedy ones without."""
    sampling = {"greedy": None, "one": DraftSampling(1.5, 1), "other": DraftSampling(1.5, 2)}
    pool = DrafterPool(
        [NeuralSsm("same", runners[0], Beam(1), None, calibration=Calibration(noise_weight=1.0))], PoolConfig()
    )
    for item, (name, own) in enumerate(sampling.items()):
        pool.add(item, DraftWork(name, 0, PROMPT[:5], TreeShape(0, 0), sampling=own))
    while pool.has_work():
        pool.step()
    for item, name in enumerate(sampling):
        pool.add(item, DraftWork(name, 5, PROMPT[5:], CHAIN))
    results = {}
    while pool.has_work():
        results.update(pool.step())
    for item, own in enumerate(sampling.values()):
        ((tree,),) = [[each.tree for each in results[item].trees]]
        assert list(tree.token_ids[1:]) == chosen_by_verifier(runners[0], own, DEPTH)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"noise_weight": -1.0}, "0 or more"),
        ({"depth_scales": ()}, "at least one"),
        ({"depth_scales": (1.0, 0.0)}, "positive"),
    ],
)
def test_bad_calibrations_are_named(values: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Calibration(**values)  # type: ignore[arg-type]


def test_probabilities_go_over_into_those_of_a_greedy_session(runners: list[ModelRunner]) -> None:
    """One scale is fitted for all temperatures: near 0 a sampled session's are a greedy one's, whatever the weight."""
    nearly = drafted(runners[0], DraftSampling(1e-5, 3), noise_weight=1.5)
    greedy = drafted(runners[0], None, noise_weight=1.5)
    assert nearly.token_ids == greedy.token_ids
    assert nearly.log_probs == pytest.approx(greedy.log_probs, abs=0.06)
