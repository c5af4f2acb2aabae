"""Choices in the corners: every combination of settings, little left to choose from, noise that decides from far below."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from specgrove.kernels import _native
from specgrove.kernels.sampling import (
    NO_ADJUSTMENTS,
    ChoiceParams,
    TokenAdjustments,
    choose,
    greedy_choices,
    gumbel_noise,
    processed_log_probs,
    top_k_log_probs,
)
from tests.kernels import reference_sampling as reference
from tests.kernels.examples import examples

MINUS_INFINITY = float("-inf")
ADJUSTED = TokenAdjustments(
    seen_token_ids=torch.tensor([0, 3, 4]),
    output_token_ids=torch.tensor([3, 5]),
    output_counts=torch.tensor([2, 1]),
    bias_token_ids=torch.tensor([7, 1]),
    bias=torch.tensor([1.5, -0.5]),
    banned_token_ids=torch.tensor([2]),
)
PENALTIES = ChoiceParams(
    temperature=0.9, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.2, top_k=9, top_p=0.97
)
TARGETS = {
    "temperature": (ChoiceParams(temperature=0.8), NO_ADJUSTMENTS),
    "top-k": (ChoiceParams(temperature=1.2, top_k=5), NO_ADJUSTMENTS),
    "top-p": (ChoiceParams(temperature=1.0, top_p=0.8), NO_ADJUSTMENTS),
    "min-p": (ChoiceParams(temperature=1.0, min_p=0.1), NO_ADJUSTMENTS),
    "all three": (ChoiceParams(temperature=1.1, top_k=8, top_p=0.9, min_p=0.05), NO_ADJUSTMENTS),
    "penalties, bias and bans": (PENALTIES, ADJUSTED),
}


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, 12345678901234567890])
@pytest.mark.parametrize("position", [0, 17, 2**33 + 5])
def test_noise_is_the_reference_bit_for_bit(seed: int, position: int) -> None:
    """For neighbouring ids, which share a Philox block, and for ones far apart."""
    token_ids = torch.cat([torch.arange(1001), torch.tensor([49151, 151935, 2**31 - 1])])
    assert torch.equal(gumbel_noise(seed, position, token_ids), reference.gumbel_noise(seed, position, token_ids))


def test_noise_is_standard_gumbel() -> None:
    """Mean, variance and shape; no correlation between neighbours in id, position or seed."""
    from scipy import stats  # here: importing it takes a second of every process of tests

    token_ids = torch.arange(100_000)
    noise = gumbel_noise(3, 5, token_ids).double()
    assert abs(float(noise.mean()) - 0.5772156649) < 5 * math.pi / math.sqrt(6 * 100_000)
    assert abs(float(noise.var()) - math.pi**2 / 6) < 0.05
    assert stats.kstest(noise.numpy(), "gumbel_r").pvalue > 1e-3
    others = [noise.roll(1), gumbel_noise(3, 6, token_ids), gumbel_noise(4, 5, token_ids)]
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([noise, other.double()]))[0, 1])) < 0.016


@pytest.mark.parametrize(("params", "adjustments"), TARGETS.values(), ids=TARGETS)
def test_choices_follow_the_target_distribution(params: ChoiceParams, adjustments: TokenAdjustments) -> None:
    """Chi-square over seeds and over positions, at a level that a right kernel misses once in 10000 runs."""
    from scipy import stats

    torch.manual_seed(0)
    logits = torch.randn(20) * 1.5
    target_probs = processed_log_probs(logits, params, adjustments).double().exp()
    by_seed = [choose(logits, replace(params, seed=seed), 11, adjustments) for seed in range(4000)]
    by_position = [choose(logits, params, position, adjustments) for position in range(4000)]
    possible = target_probs > 0
    for choices in (by_seed, by_position):
        counts = torch.bincount(torch.tensor(choices), minlength=20).double()
        assert counts[~possible].sum() == 0
        expected = target_probs[possible] * len(choices)
        expected *= counts.sum() / expected.sum()
        assert stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 1e-4


@examples(150)
@given(
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**40),
    vocab_size=st.sampled_from([1, 2, 31, 64, 100, 1000, 5003]),
    spread=st.sampled_from([0.1, 1.0, 4.0, 20.0]),
    temperature=st.sampled_from([0.0, 0.3, 0.8, 1.0, 2.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 700]),
    top_p=st.sampled_from([1.0, 1.0, 1e-9, 0.3, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.05, 1.0]),
    share_out=st.sampled_from([0.0, 0.0, 0.5, 0.99]),
    is_adjusted=st.booleans(),
)
def test_choices_and_distributions_are_the_reference(
    seed: int,
    position: int,
    vocab_size: int,
    spread: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    share_out: float,
    is_adjusted: bool,
) -> None:
    """Every combination of the settings, with logits of minus infinity among the others."""
    torch.manual_seed(seed % 2**32)
    logits = torch.randn(vocab_size) * spread
    logits[torch.rand(vocab_size) < share_out] = MINUS_INFINITY
    logits[-1] = 0.5
    adjustments = ADJUSTED if is_adjusted and vocab_size > 8 else NO_ADJUSTMENTS
    params = ChoiceParams(temperature, top_k, top_p, min_p, 1.2, 0.3, 0.1, seed)
    assert choose(logits, params, position, adjustments) == reference.choose(logits, params, position, adjustments)
    if temperature > 0:
        out, wanted = (f(logits, params, adjustments) for f in (processed_log_probs, reference.processed_log_probs))
        torch.testing.assert_close(out, wanted.float(), rtol=1e-5, atol=1e-5)


@examples(60)
@given(
    seed=st.integers(0, 2**64 - 1),
    spread=st.sampled_from([0.01, 0.3, 1.0, 3.0]),
    num_levels=st.sampled_from([0, 0, 0, 7, 400]),
    temperature=st.sampled_from([0.5, 1.0, 2.0, 100.0]),
    top_k=st.sampled_from([0, 0, 1, 2, 40, 1500, 4999]),
    top_p=st.sampled_from([1.0, 1e-9, 0.01, 0.5, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 1e-9, 0.05, 0.5]),
    share_out=st.sampled_from([0.0, 0.0, 0.5]),
)
def test_a_choice_of_many_tokens_is_that_of_a_full_sort(
    seed: int,
    spread: float,
    num_levels: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    share_out: float,
) -> None:
    """Where very many tokens are alike they are not sorted for the choice, as they are for the distribution; ``num_levels``: with ties."""
    torch.manual_seed(seed % 2**32)
    logits = torch.randn(5000) * spread
    if num_levels:
        logits = (logits * num_levels).round() / num_levels
    logits[torch.rand(5000) < share_out] = MINUS_INFINITY
    params = ChoiceParams(temperature, top_k, top_p, min_p, seed=seed)
    noise = gumbel_noise(seed, 77, torch.arange(5000))
    scores = (logits * torch.tensor(1.0 / temperature) + noise).masked_fill(
        processed_log_probs(logits, params).isinf(), MINUS_INFINITY
    )
    assert choose(logits, params, 77) == int(scores.argmax())


@pytest.mark.parametrize(
    "params",
    [
        ChoiceParams(temperature=2.0, top_p=0.999),
        ChoiceParams(temperature=2.0, top_k=40_000),
        ChoiceParams(temperature=2.0, top_k=40),
        ChoiceParams(temperature=2.0, min_p=1e-6),
        ChoiceParams(temperature=2.0, top_k=40_000, top_p=0.9, min_p=1e-9),
    ],
    ids=["top-p", "top-k", "small top-k", "min-p", "all three"],
)
def test_many_tokens_are_not_sorted(params: ChoiceParams) -> None:
    """Sorting a vocabulary takes the thread of all sessions for milliseconds."""
    torch.manual_seed(3)
    logits = torch.randn(49_152)
    num_before = _native.num_sorted_tokens()
    for position in range(20):
        choose(logits, params, position)
    assert _native.num_sorted_tokens() == num_before


@pytest.mark.parametrize(
    "cut",
    [
        ChoiceParams(1.0, top_p=0.9),
        ChoiceParams(1.0, top_k=3),
        ChoiceParams(1.0, 2000, 0.5),
        ChoiceParams(1.0, min_p=0.1),
    ],
)
def test_of_logits_that_overflow_the_first_is_chosen(cut: ChoiceParams) -> None:
    """A repetition penalty may be so small that what was seen becomes infinite, and no probability is a number."""
    logits = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    logits[[7, 3000]] = 5.0
    seen = TokenAdjustments(seen_token_ids=torch.tensor([3000, 7]))
    assert choose(logits, replace(cut, repetition_penalty=1e-39), 3, seen) == 7


def test_few_tokens_are_sorted() -> None:
    torch.manual_seed(3)
    logits = torch.randn(49_152) * 10
    num_before = _native.num_sorted_tokens()
    choose(logits, ChoiceParams(temperature=1.0, top_p=0.9), 0)
    assert 0 < _native.num_sorted_tokens() - num_before <= 49_152 // 16


def test_min_p_does_not_change_what_top_p_is_a_share_of() -> None:
    """Top-p is a share of what top-k leaves, min-p or not: 100 tokens at e^-7 are 8% of the mass here."""
    logits = torch.full((1000,), -7.0)
    logits[:9] = torch.tensor([0.0, -3.2, -3.3, -3.4, -3.5, -3.6, -3.7, -3.8, -3.9])
    params = ChoiceParams(temperature=1.0, top_k=109, top_p=0.9, min_p=0.01)
    out = processed_log_probs(logits, params)
    assert torch.equal(out.isfinite(), reference.processed_log_probs(logits, params).isfinite())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_whole_vocabulary_is_searched(temperature: float) -> None:
    """Flat and peaked logits: a token far below the best may win by its noise, and must."""
    for seed in range(12):
        torch.manual_seed(seed)
        logits = torch.randn(32_003) * (0.01 if seed % 2 else 3.0)
        params = ChoiceParams(temperature=temperature, seed=seed)
        assert choose(logits, params, 9) == reference.choose(logits, params, 9)


def test_a_token_behind_by_15_can_win() -> None:
    """The noise reaches 16.6: find a token whose noise is large, and let it win from far below."""
    token_ids = torch.arange(60_000)
    noise = gumbel_noise(0, 0, token_ids)
    winner = int(noise.argmax())
    logits = torch.zeros(60_000)
    logits[0] = 1.0 + float(noise[winner] - noise[0])
    behind = ChoiceParams(temperature=1.0)
    assert choose(logits, behind, 0) == reference.choose(logits, behind, 0) == 0
    logits = torch.full((60_000,), MINUS_INFINITY)
    logits[0], logits[winner] = float(noise[winner] - noise[0]) - 0.01, 0.0
    assert choose(logits, behind, 0) == winner


@pytest.mark.parametrize(
    "params", [ChoiceParams(), ChoiceParams(temperature=1.0), ChoiceParams(temperature=1.0, top_k=3)]
)
def test_refuses_nan_and_nothing_left(params: ChoiceParams) -> None:
    """Wherever the NaN stands, and even when it is not the largest."""
    for place in (0, 40, 69):
        logits = torch.zeros(70)
        logits[place] = float("nan")
        for function in (
            lambda x: choose(x, params, 0),
            lambda x: greedy_choices(x[None]),
            lambda x: top_k_log_probs(x[None], 2),
        ):
            with pytest.raises(ValueError, match="NaN"):
                function(logits)
    nothing = torch.full((70,), MINUS_INFINITY)
    for function in (
        lambda x: choose(x, params, 0),
        lambda x: greedy_choices(x[None]),
        lambda x: top_k_log_probs(x[None], 2),
    ):
        with pytest.raises(ValueError, match="banned"):
            function(nothing)
    with pytest.raises(ValueError, match="banned"):
        choose(torch.zeros(70), params, 0, TokenAdjustments(banned_token_ids=torch.arange(70)))


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_banned_tokens_are_never_chosen(temperature: float) -> None:
    """However probable, and whatever their bias."""
    logits = torch.zeros(50)
    logits[:49] = 30.0
    banned = torch.arange(49)
    adjustments = TokenAdjustments(banned_token_ids=banned, bias_token_ids=banned, bias=torch.full((49,), 100.0))
    for seed in range(50):
        assert choose(logits, ChoiceParams(temperature=temperature, seed=seed), seed, adjustments) == 49


def test_few_tokens_left_are_enough() -> None:
    """top-k and k larger than the number of finite logits."""
    logits = torch.full((1000,), MINUS_INFINITY)
    logits[[5, 700]] = torch.tensor([1.0, 2.0])
    params = ChoiceParams(temperature=1.0, top_k=50, top_p=0.99)
    assert {choose(logits, params, position) for position in range(60)} == {5, 700}
    values, token_ids = top_k_log_probs(logits[None], 5)
    assert token_ids.tolist() == [[700, 5, 0, 1, 2]]
    assert values[0, 2:].tolist() == [MINUS_INFINITY] * 3
    assert values[0, :2].tolist() == pytest.approx([-math.log1p(math.exp(-1)), -1 - math.log1p(math.exp(-1))], abs=1e-6)
    only = torch.full((1, 100), MINUS_INFINITY)
    only[0, 77] = -3.0
    assert top_k_log_probs(only, 1)[1].tolist() == [[77]]
    assert float(top_k_log_probs(only, 100)[0][0, 0]) == pytest.approx(0.0, abs=1e-6)


def test_a_tiny_top_p_keeps_the_best_token() -> None:
    """One token, the lower id of two equal ones."""
    logits = torch.zeros(100)
    logits[[60, 30]] = 1.0
    params = ChoiceParams(temperature=1.0, top_p=1e-9)
    assert processed_log_probs(logits, params).isfinite().nonzero().tolist() == [[30]]
    assert {choose(logits, params, position) for position in range(20)} == {30}


@pytest.mark.parametrize("vocab_size", [1, 63, 64, 100, 1000, 4097])
def test_ties_go_to_the_lower_id(vocab_size: int) -> None:
    """All logits equal, and few distinct values."""
    flat = torch.zeros(2, vocab_size)
    assert choose(flat[0], ChoiceParams(), 0) == 0
    assert greedy_choices(flat).tolist() == [0, 0]
    k = min(vocab_size, 70)
    assert top_k_log_probs(flat, k)[1].tolist() == [list(range(k))] * 2
    torch.manual_seed(vocab_size)
    coarse = torch.randint(0, 4, (5, vocab_size)).float()
    assert torch.equal(greedy_choices(coarse), reference.greedy_choices(coarse))
    for k in {1, min(8, vocab_size), vocab_size}:
        values, token_ids = top_k_log_probs(coarse, k)
        wanted_values, wanted_ids = reference.top_k_log_probs(coarse, k)
        assert torch.equal(token_ids, wanted_ids)
        torch.testing.assert_close(values, wanted_values.float(), rtol=1e-6, atol=2e-6)
