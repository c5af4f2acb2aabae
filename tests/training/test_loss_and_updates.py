"""What the training of SSMs on hidden states computes with: the loss on a part of the vocabulary, and Muon's updates."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from specgrove.training.muon import orthogonal
from specgrove.training.subset_loss import sampled_rows, subset_loss


def test_the_subset_loss_is_the_whole_one_where_nothing_is_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(700, 16, generator=generator).requires_grad_()
    head = torch.randn(50, 16, generator=generator)
    ids = torch.stack([torch.randperm(50, generator=generator)[:4] for _ in range(700)])
    probs = torch.rand(700, 4, generator=generator).softmax(-1)
    weights = torch.rand(700, generator=generator)
    rows = sampled_rows(head, ids.unique(), np.ones(50), 50, np.random.default_rng(0))
    loss = subset_loss(outputs, rows, ids, probs, weights)
    (gradient,) = torch.autograd.grad(loss, outputs)
    each = -((outputs @ head.T).log_softmax(-1).gather(1, ids) * probs).sum(-1)
    expected = (each * weights).sum() / weights.sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])


def test_sampled_rows_stand_for_those_left_out() -> None:
    """The mean over samples of the sum of exponentials is that of the whole head."""
    head = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
    mass = np.linspace(0, 5, 400)
    state, named = torch.randn(8, generator=torch.Generator().manual_seed(1)) * 0.3, torch.tensor([5, 9])
    sums = []
    for seed in range(200):
        rows = sampled_rows(head, named, mass, 60, np.random.default_rng(seed))
        assert (rows.places[named] >= 0).all()
        sums.append(float((rows.rows @ state + rows.offsets).exp().sum()))
    assert np.mean(sums) == pytest.approx(float((head @ state).exp().sum()), rel=0.05)


def test_orthogonal_updates() -> None:
    for shape in ((12, 30), (30, 12)):
        singular = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.4
