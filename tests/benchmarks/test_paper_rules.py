"""The rules of ``benchmarks.paper`` on small vocabularies, by exact enumeration of everything that can be drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from benchmarks.paper.rules import (
    Probs,
    Rule,
    Tree,
    expected_num_steps,
    multi_step,
    multi_step_with_rest,
    naive,
    num_accepted_probs,
    num_followed,
)
from specgrove.kernels.sampling import ChoiceParams, choose, gumbel_noise

VOCAB_SIZE = 4


def _probs(rng: np.random.Generator, *, has_zeros: bool = False) -> Probs:
    probs = rng.dirichlet(np.full(VOCAB_SIZE, 0.7))
    if has_zeros:
        probs[rng.integers(VOCAB_SIZE)] = 0.0
    return probs / probs.sum()


@pytest.mark.parametrize("num_drawn", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_multi_step_sampling_emits_the_targets_distribution(num_drawn: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, draft = _probs(rng, has_zeros=seed % 2 == 0), _probs(rng, has_zeros=seed % 3 == 0)
    emitted = np.zeros(VOCAB_SIZE)
    for drawn in itertools.product(range(VOCAB_SIZE), repeat=num_drawn):
        weight = float(np.prod(draft[list(drawn)]))
        if weight == 0:
            continue
        accepted, rest = multi_step_with_rest(target, draft, drawn)
        for token, prob in accepted.items():
            emitted[token] += weight * prob
        emitted += weight * rest
    np.testing.assert_allclose(emitted, target, atol=1e-12)


def test_two_levels_emit_the_targets_joint_distribution() -> None:
    """Two drawings below the root and two below each; equal ones are one node with the children of both."""
    rng = np.random.default_rng(3)
    vocab = range(3)
    target, draft = (rng.dirichlet(np.ones(3), size=4) for _ in range(2))  # row 0: at the root; row 1 + x: after x
    joint = np.zeros((3, 3))
    for first in itertools.product(vocab, repeat=2):
        accepted, rest = multi_step_with_rest(target[0], draft[0], first)
        weight = float(np.prod(draft[0][list(first)]))
        for token in vocab:
            joint[token] += weight * rest[token] * target[1 + token]  # refused: the next token comes from the target
        for token, prob in accepted.items():
            num_drawn = 2 * first.count(token)
            for second in itertools.product(vocab, repeat=num_drawn):
                deep, deep_rest = multi_step_with_rest(target[1 + token], draft[1 + token], second)
                deep_weight = float(np.prod(draft[1 + token][list(second)]))
                for deep_token, deep_prob in deep.items():
                    joint[token, deep_token] += weight * prob * deep_weight * deep_prob
                joint[token] += weight * prob * deep_weight * deep_rest
    np.testing.assert_allclose(joint, target[0][:, None] * target[1:], atol=1e-12)


def test_our_choice_has_the_targets_distribution() -> None:
    """The served choice itself, and its noise: argmax(log-probs + noise) of many seeds, within five standard errors."""
    target = _probs(np.random.default_rng(5))
    logits = torch.from_numpy(np.log(target)).float()
    num = 40_000
    counts = np.zeros(VOCAB_SIZE)
    for seed in range(num):
        counts[choose(logits, ChoiceParams(temperature=1.0, seed=seed), 7)] += 1
    errors = np.sqrt(target * (1 - target) / num)
    assert (np.abs(counts / num - target) < 5 * errors).all()
    noise = gumbel_noise(11, 7, torch.arange(VOCAB_SIZE))
    assert choose(logits, ChoiceParams(temperature=1.0, seed=11), 7) == int((logits + noise).argmax())


@pytest.mark.parametrize("seed", range(5))
def test_naive_sampling_accepts_what_one_draw_of_the_target_meets(seed: int) -> None:
    """And so do we, on average over seeds: the walk along outputs that are drawn from the target."""
    rng = np.random.default_rng(seed)
    tokens, parents = [0, 1, 2, 0, 3, 0, 1], [-1, 0, 0, 1, 1, 2, 0]
    target = [_probs(rng) for _ in tokens]
    target[6] = target[1]  # the same token at the same place: one node, one distribution
    tree = Tree(tokens, parents, target, [_probs(rng) for _ in tokens])
    followed = np.zeros(3)
    for output in itertools.product(range(VOCAB_SIZE), repeat=2):
        node = {1: 1, 2: 2}.get(output[0])
        after = target[node] if node is not None else np.full(VOCAB_SIZE, 1 / VOCAB_SIZE)
        followed[num_followed(tokens, parents, output)] += target[0][output[0]] * after[output[1]]
    np.testing.assert_allclose(num_accepted_probs(tree, naive), followed, atol=1e-12)


@pytest.mark.parametrize("rule", [naive, multi_step])
def test_a_draft_that_is_the_target(rule: Rule) -> None:
    """Multi-step sampling accepts all that was drawn from the target itself; naive sampling does not."""
    probs = np.array([0.5, 0.3, 0.2])
    found = num_accepted_probs(Tree([0, 1, 2], [-1, 0, 1], [probs] * 3, [probs] * 3), rule)
    expected = [0.0, 0.0, 1.0] if rule is multi_step else [0.7, 0.3 * 0.8, 0.3 * 0.2]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_multi_step_accepts_what_the_distributions_share() -> None:
    """One drawing: 1 - total variation distance (arXiv 2302.01318)."""
    rng = np.random.default_rng(8)
    target, draft = _probs(rng), _probs(rng)
    accepted = sum(draft[token] * multi_step(target, draft, [token])[token] for token in range(VOCAB_SIZE))
    assert accepted == pytest.approx(np.minimum(target, draft).sum())


def test_a_refused_token_is_not_accepted_when_drawn_again() -> None:
    target, draft = np.array([0.1, 0.9]), np.array([0.9, 0.1])
    assert multi_step(target, draft, [0, 0])[0] == multi_step(target, draft, [0])[0]


def test_steps_of_a_loop() -> None:
    """Against the loop itself: certain numbers of accepted tokens, and a coin at the first position."""

    def certain(number: int) -> Probs:
        return np.eye(4)[number]

    assert expected_num_steps([certain(0)] * 5) == 5
    assert expected_num_steps([certain(3)] * 5) == 2  # four tokens, then one
    assert expected_num_steps([np.array([0.5, 0.5, 0, 0]), certain(3), certain(0), certain(0)]) == 0.5 * 2 + 0.5 * 3
