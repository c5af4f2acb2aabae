"""Candidates ranked with the verifier's noise: against the formula in float64, and noise of fixed numbers that both services must share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specgrove.kernels import sampling
from specgrove.kernels.candidates import CandidateRow, best_candidates
from specgrove.kernels.sampling import ChoiceParams

# Of (seed, position): the noise of tokens 0, 1, 2, 3, 4, 1000 and 49151. They may never change: a session that moves to another replica, or
# whose drafter is of another version, would be drafted for, or go on, with other noise.
GOLDEN_NOISE: dict[tuple[int, int], list[float]] = {
    (0, 0): [0.0848202631, 2.06166101, 1.1811831, 0.689691544, 3.57016063, 0.221759513, 2.82335138],
    (42, 1): [-1.52590525, -0.727303326, -0.378938079, 1.07815862, -0.717215836, 1.78263223, 0.979748726],
    (42, 17): [-0.243536234, -0.973333836, 0.448627651, 0.762094021, -0.545364916, -0.36449033, -1.43996716],
    (9223372036854775813, 100000): [
        -0.61823386,
        0.0257445835,
        3.4037993,
        0.363235742,
        0.453526169,
        1.36237752,
        -0.739326358,
    ],
}
GOLDEN_IDS = [0, 1, 2, 3, 4, 1000, 49151]
MEAN_NOISE = 0.57721566


@pytest.mark.parametrize(("seed", "position"), GOLDEN_NOISE)
def test_noise_is_what_it_has_always_been(seed: int, position: int) -> None:
    noise = sampling.gumbel_noise(seed, position, torch.tensor(GOLDEN_IDS))
    assert noise.tolist() == torch.tensor(GOLDEN_NOISE[seed, position]).tolist()


@pytest.mark.parametrize(("seed", "position"), GOLDEN_NOISE)
def test_verifier_and_drafter_choose_by_that_noise(seed: int, position: int) -> None:
    noise = torch.tensor(GOLDEN_NOISE[seed, position])
    # Logits that leave nothing but these tokens, and that nearly outweigh the noise's differences.
    logits = torch.full((49152,), -torch.inf)
    own = -noise + torch.tensor([0.0, 0.001, 0.002, 0.003, 0.002, 0.001, 0.0])
    logits[torch.tensor(GOLDEN_IDS)] = own
    params = ChoiceParams(temperature=1.0, seed=seed)
    assert sampling.choose(logits, params, position) == 3
    order = own.sort(descending=True, stable=True).indices
    row = CandidateRow(position, 1.0, seed)
    (found,) = best_candidates(
        torch.tensor(GOLDEN_IDS)[order][None], own[order][None], own.logsumexp(0)[None], [row], 3, noise_weight=1.0
    )
    ids = [token_id for token_id, _ in found]
    assert ids[0] == 3
    assert set(ids) == {2, 3, 4}


@st.composite
def rows_of_candidates(draw: st.DrawFn) -> tuple[CandidateRow, int, float, int]:
    row = CandidateRow(
        position=draw(st.integers(0, 2**33)),
        temperature=draw(st.sampled_from([0.0, 0.6, 1.0, 1.7])),
        seed=draw(st.integers(0, 2**64 - 1)),
        top_k=draw(st.sampled_from([0, 1, 3, 500])),
        top_p=draw(st.sampled_from([1.0, 0.9, 0.3])),
        scale=draw(st.sampled_from([1.0, 0.7, 2.0])),
    )
    return row, draw(st.integers(1, 70)), draw(st.sampled_from([0.0, 1.0, 1.5])), draw(st.integers(0, 2**32))


@settings(max_examples=150, deadline=None)
@given(rows_of_candidates())
def test_scores_and_shares_equal_the_formula(case: tuple[CandidateRow, int, float, int]) -> None:
    row, num, noise_weight, seed = case
    torch.manual_seed(seed)
    logits = (torch.randn(200) * 3).sort(descending=True).values
    ids = torch.randperm(50_000)[:num]
    ids[torch.rand(num) < 0.1] = -1
    log_sum_exp = logits.logsumexp(0)
    k = 4
    (pairs,) = best_candidates(ids[None], logits[None, :num].contiguous(), log_sum_exp[None], [row], k, noise_weight)
    short = best_candidates(ids.int()[None], logits[None, :num].contiguous(), log_sum_exp[None], [row], k, noise_weight)
    assert short == [pairs]

    z, kept, temperature = logits[:num].double(), num, row.temperature
    if temperature > 0:
        kept = min(kept, row.top_k or kept)
        if row.top_p < 1:
            shares = torch.softmax(z[:kept] / temperature, 0).cumsum(0)
            kept = min(kept, int((shares < row.top_p - 1e-6).sum()) + 1)
    others = logits[num:].double().logsumexp(0) if kept == num else torch.tensor(-torch.inf).double()
    if temperature > 0 and noise_weight > 0:
        noise = sampling.gumbel_noise(row.seed, row.position, ids.clamp(min=0)).double()
        noise[ids < 0] = MEAN_NOISE
        scores = (noise_weight * z + temperature * noise) / row.scale
        others = temperature * others + (1 - temperature) * z[-1]
        others = (noise_weight * others + temperature * MEAN_NOISE) / row.scale
    else:
        scores, others = z / row.scale, others / row.scale
    scores = scores[:kept]
    shares = torch.cat([scores, others[None]]).log_softmax(0)[:-1]
    expected = sorted(
        (
            (share.item(), token_id)
            for share, token_id in zip(shares, ids[:kept].tolist(), strict=True)
            if token_id >= 0
        ),
        reverse=True,
    )[:k]
    found = [(value, token_id) for token_id, value in pairs]
    assert [token_id for _, token_id in found] == [token_id for _, token_id in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], abs=2e-3)


@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_with_the_verifiers_own_logits_the_first_is_the_verifiers_choice(temperature: float) -> None:
    torch.manual_seed(1)
    for position in range(100):
        logits = torch.randn(300) * 2
        values, ids = sampling.top_k_log_probs(logits[None], 300)
        row = CandidateRow(position, temperature, seed=77)
        (((best, _),),) = best_candidates(ids, values, torch.zeros(1), [row], 1, noise_weight=1.0)
        assert best == sampling.choose(logits, ChoiceParams(temperature, seed=77), position)


def test_probabilities_mean_what_they_say() -> None:
    """A verifier whose logits are the drafter's with Gumbel errors chooses each candidate as often as the drafter says."""
    torch.manual_seed(5)
    num, vocab_size = 3000, 200
    drafted = (torch.randn(num, vocab_size) * 2).log_softmax(1)
    errors = -torch.empty(num, vocab_size).exponential_().log() * 1.2
    values, ids = sampling.top_k_log_probs(drafted, vocab_size)
    rows = [CandidateRow(position, 0.8, seed=3, scale=1.2) for position in range(num)]
    found = torch.tensor(best_candidates(ids, values, torch.zeros(num), rows, 3, noise_weight=1.0))
    best, log_probs = found[:, :, 0].long(), found[:, :, 1]
    chosen = torch.tensor(
        [sampling.choose(drafted[i] + errors[i], ChoiceParams(0.8, seed=3), position=i) for i in range(num)]
    )
    hits = (best == chosen[:, None]).float()
    for probs, right in zip(log_probs.exp().T, hits.T, strict=True):
        assert right.mean().item() == pytest.approx(probs.mean().item(), abs=0.025)


@given(rows_of_candidates(), st.integers(1, 9))
def test_rows_that_are_filled_up_are_as_those_that_are_not(
    case: tuple[CandidateRow, int, float, int], num_missing: int
) -> None:
    row, num, noise_weight, seed = case
    torch.manual_seed(seed)
    logits, ids = (torch.randn(200) * 3).sort(descending=True).values, torch.randperm(50_000)[:num]
    log_sum_exp = logits.logsumexp(0)[None]
    whole = best_candidates(ids[None], logits[None, :num].contiguous(), log_sum_exp, [row], 4, noise_weight)
    filled_ids = torch.cat([ids, torch.full((num_missing,), -1)])
    filled = torch.cat([logits[:num], torch.full((num_missing,), -torch.inf)])
    found = best_candidates(filled_ids[None], filled[None], log_sum_exp, [row], 4, noise_weight)
    assert found == whole


def test_what_is_not_a_number_proposes_nothing() -> None:
    ids, zeros = torch.arange(4)[None], torch.zeros(1)
    for first in (torch.nan, -torch.inf):
        logits = torch.tensor([[first, -torch.inf, -torch.inf, -torch.inf]])
        assert best_candidates(ids, logits, zeros, [CandidateRow(0)], 2, 1.0) == [[]]


def test_wrong_arguments_are_named() -> None:
    ids, logits = torch.arange(4)[None], torch.zeros(1, 4)
    with pytest.raises(ValueError, match="1 rows of logits need as many CandidateRows, got 2"):
        best_candidates(ids, logits, torch.zeros(1), [CandidateRow(0)] * 2, 1, 1.0)
    with pytest.raises(ValueError, match="k = 0"):
        best_candidates(ids, logits, torch.zeros(1), [CandidateRow(0)], 0, 1.0)
    with pytest.raises(ValueError, match="log_sum_exp must have the shape"):
        best_candidates(ids, logits, torch.zeros(2), [CandidateRow(0)], 1, 1.0)
