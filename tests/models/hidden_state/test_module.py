import pytest
import torch

from specgrove.models.hidden_state.attention import CachedAttention, UnrolledAttention, window_mask
from tests.models.hidden_state.tiny_ssms import random_module

NUM_ROWS, NUM_STEPS = 12, 3


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"has_fed_back_map": False, "input_norms": "none"},
        {
            "has_embedding_residual": False,
            "has_fed_back_map": False,
            "residual_is_normed": True,
            "input_norms": "joint",
        },
        {"has_query_key_norms": True, "has_attention_bias": True, "feeds_normed_state": False},
    ],
)
@torch.no_grad()
def test_unrolled_training_steps_are_the_steps_of_a_draft(changes):
    module = random_module(hidden_window=5, **changes)
    spec = module.spec
    hidden_states = torch.randn(NUM_ROWS, spec.num_hidden_layers * spec.target_hidden_size)
    embeddings = torch.randn(NUM_ROWS + NUM_STEPS, spec.hidden_size)
    positions = torch.arange(NUM_ROWS)

    unrolled = UnrolledAttention(window_mask(NUM_ROWS, spec.hidden_window))
    given = module.of_hidden_states(hidden_states[None], embeddings[None, :NUM_ROWS])
    steps = [module(given, positions, unrolled)]
    for step in range(1, NUM_STEPS):
        given = module.of_own_states(steps[-1], embeddings[None, step : step + NUM_ROWS])
        steps.append(module(given, positions + step, unrolled))

    for row in range(NUM_ROWS):  # each row's draft by itself, over a cache
        attention = CachedAttention()
        attention.mask = window_mask(row + 1, spec.hidden_window)
        given = module.of_hidden_states(hidden_states[: row + 1], embeddings[: row + 1])
        state = module(given, positions[: row + 1], attention)[-1:]
        torch.testing.assert_close(state, steps[0][:, row])
        for step in range(1, NUM_STEPS):
            first = max(0, row - spec.hidden_window + 1)
            attention.mask = (torch.arange(row + 1 + step) >= first)[None]
            given = module.of_own_states(state, embeddings[row + step : row + step + 1])
            state = module(given, positions[row : row + 1] + step, attention)
            torch.testing.assert_close(state, steps[step][:, row])


def test_sequences_may_begin_without_hidden_states():
    mask = window_mask(6, 3, torch.tensor([0, 4]))
    assert torch.equal(mask[0, 0], window_mask(6, 3))
    assert torch.equal(mask[1, 0].sum(dim=1), torch.tensor([1, 1, 1, 1, 1, 2]))


@torch.no_grad()
def test_candidates_are_found_by_the_low_rank_head_and_scored_by_the_whole_one():
    module = random_module()
    outputs, head = torch.randn(5, 64), torch.randn(120, 64)
    ids, scores = module.candidates(outputs, head)
    assert ids.shape == scores.shape == (5, 12)
    approximate = outputs @ module.candidate_head.down.T @ module.candidate_head.up.T
    for row in range(5):
        assert set(ids[row].tolist()) == set(approximate[row].topk(12).indices.tolist())
        torch.testing.assert_close(scores[row], head[ids[row]] @ outputs[row])
        assert (scores[row].diff() <= 0).all()


@torch.no_grad()
def test_without_a_candidate_head_all_ids_compete():
    outputs, head = torch.randn(5, 64), torch.randn(120, 64)
    ids, _ = random_module(candidate_rank=None).candidates(outputs, head)
    assert torch.equal(ids, (outputs @ head.T).topk(12).indices)


def test_every_parameter_learns():
    module = random_module()
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    attend = UnrolledAttention(window_mask(4, 8))
    embeddings = torch.randn(1, 5, 64)
    states = module(module.of_hidden_states(torch.randn(1, 4, 192), embeddings[:, :4]), torch.arange(4), attend)
    states = module(module.of_own_states(states, embeddings[:, 1:]), torch.arange(4) + 1, attend)
    module.candidate_head(module.outputs(states)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
