"""Choices against a full sort, noise bit for bit, and samples against the distribution they are said to follow."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.kernels import sampling
from specgrove.kernels.sampling import ChoiceParams, TokenAdjustments
from tests.kernels import reference_sampling as reference

EULER_GAMMA = 0.5772156649


def test_noise_has_the_references_bits() -> None:
    ids = torch.cat([torch.arange(5000), torch.tensor([2**31 + 5, 49151])])
    for seed, position in ((0, 0), (1, 7), (2**64 - 1, 2**40 + 3), (0xDEADBEEF12345678, 131071)):
        found = sampling.gumbel_noise(seed, position, ids)
        assert torch.equal(found, reference.gumbel_noise(seed, position, ids))
        assert found.isfinite().all()


def test_noise_is_gumbel_noise_and_depends_on_each_input() -> None:
    noise = torch.cat([sampling.gumbel_noise(9, position, torch.arange(10_000)) for position in range(20)]).double()
    assert noise.mean().item() == pytest.approx(EULER_GAMMA, abs=0.01)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.03)
    ids = torch.arange(100)
    assert not torch.equal(sampling.gumbel_noise(1, 5, ids), sampling.gumbel_noise(2, 5, ids))
    assert not torch.equal(sampling.gumbel_noise(1, 5, ids), sampling.gumbel_noise(1, 6, ids))
    assert sampling.gumbel_noise(1, 5, ids).unique().numel() > 90


@st.composite
def settings_of_choices(draw: st.DrawFn) -> ChoiceParams:
    return ChoiceParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 1, 5, 40, 10_000])),
        top_p=draw(st.sampled_from([1.0, 0.95, 0.5, 0.01])),
        min_p=draw(st.sampled_from([0.0, 0.05, 0.5])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3])),
        presence_penalty=draw(st.sampled_from([0.0, 0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.7])),
        seed=draw(st.integers(0, 2**64 - 1)),
    )


def random_adjustments(rng: random.Random, vocab_size: int) -> TokenAdjustments:
    def ids(count: int) -> torch.Tensor:
        return torch.tensor(rng.sample(range(vocab_size), count), dtype=torch.int64)

    if rng.random() < 0.3:
        return TokenAdjustments()
    return TokenAdjustments(
        ids(9), ids(6), torch.tensor([1, 2, 3, 1, 5, 1]), ids(3), torch.tensor([2.0, -3.0, 8.0]), ids(2)
    )


@settings(max_examples=80, deadline=None)
@given(params=settings_of_choices(), seed=st.integers(0, 2**32))
def test_choices_equal_a_full_sort(params: ChoiceParams, seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    vocab_size = rng.choice([33, 300, 1000])
    logits = torch.randn(vocab_size) * rng.choice([0.5, 3.0, 8.0])
    if rng.random() < 0.2:
        logits[torch.randperm(vocab_size)[: vocab_size - 30]] = -torch.inf
    before, adjustments = logits.clone(), random_adjustments(rng, vocab_size)
    found = sampling.choose(logits, params, 1234, adjustments)
    assert torch.equal(logits, before)
    assert found == reference.choose(logits, params, 1234, adjustments)
    if params.temperature > 0:
        ours = sampling.processed_log_probs(logits, params, adjustments)
        theirs = reference.processed_log_probs(logits, params, adjustments)
        assert torch.equal(ours.isinf(), theirs.isinf())
        kept = ~ours.isinf()
        assert torch.allclose(ours[kept].double(), theirs[kept], atol=2e-5)


@pytest.mark.parametrize(
    "params",
    [
        ChoiceParams(temperature=1.0),
        ChoiceParams(temperature=0.7, top_k=4),
        ChoiceParams(temperature=1.3, top_p=0.8),
        ChoiceParams(temperature=1.0, min_p=0.2),
    ],
    ids=["plain", "top-k", "top-p", "min-p"],
)
def test_samples_follow_the_distribution(params: ChoiceParams) -> None:
    from scipy.stats import chisquare  # here: importing it takes a second of every process of tests

    logits = torch.tensor([1.0, 0.2, -0.3, 0.9, 2.0, -1.5, 0.0, 1.4])
    expected = sampling.processed_log_probs(logits, params).exp()
    counts = torch.zeros(8)
    for number in range(20_000):
        seeded = ChoiceParams(params.temperature, params.top_k, params.top_p, params.min_p, seed=number // 100)
        counts[sampling.choose(logits, seeded, number % 100)] += 1
    kept = expected > 0
    assert counts[~kept].sum() == 0
    probabilities = expected[kept].double()
    result = chisquare(counts[kept].double(), probabilities / probabilities.sum() * counts.sum().double())
    assert result.pvalue > 1e-3


def test_ties_go_to_the_lower_id() -> None:
    logits = torch.zeros(131)
    assert sampling.choose(logits, ChoiceParams(), 0) == 0
    logits[[50, 120]] = 3.0
    assert sampling.choose(logits, ChoiceParams(), 0) == 50
    assert sampling.greedy_choices(torch.stack([logits, -logits])).tolist() == [50, 0]
    _, ids = sampling.top_k_log_probs(logits[None], 5)
    assert ids.tolist() == [[50, 120, 0, 1, 2]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), k=st.integers(1, 70), vocab_size=st.sampled_from([70, 128, 777]))
def test_top_k(seed: int, k: int, vocab_size: int) -> None:
    torch.manual_seed(seed)
    logits = (torch.randn(4, vocab_size) * 4).round() / 2  # with ties
    logits[1, 40:] = -torch.inf
    values, ids = sampling.top_k_log_probs(logits, k)
    expected_values, expected_ids = reference.top_k_log_probs(logits, k)
    assert torch.equal(ids, expected_ids)
    assert torch.allclose(values.double(), expected_values, atol=1e-5)
    assert sampling.log_prob_of(logits[0], int(ids[0, 0])) == pytest.approx(values[0, 0].item(), abs=1e-5)


def test_unusable_logits_are_named() -> None:
    logits = torch.randn(100)
    logits[77] = torch.nan
    for params in (ChoiceParams(), ChoiceParams(temperature=1.0)):
        with pytest.raises(ValueError, match="NaN"):
            sampling.choose(logits, params, 0)
    banned = TokenAdjustments(banned_token_ids=torch.arange(5))
    for params in (ChoiceParams(), ChoiceParams(temperature=1.0)):
        with pytest.raises(ValueError, match="every token is banned"):
            sampling.choose(torch.randn(5), params, 0, banned)
    with pytest.raises(ValueError, match="k must be from 1 to 100"):
        sampling.top_k_log_probs(torch.randn(1, 100), 101)
