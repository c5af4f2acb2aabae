"""What is known of trees fades with each step, whenever somebody looks."""

from __future__ import annotations

import numpy as np

from router.tree_gains import TreeGains, TreePromises
from specgrove.loop.token_tree import TokenTree

TREE = TreePromises(TokenTree((7, 1, 2, 3), (-1, 0, 1, 1), (0.0, -0.1, -0.5, -2.0), (0, 1, 1, 1)))


def seen(num_fades: int, num_steps: int, *, looks: bool = False) -> TreeGains:
    """Two trees, and between them steps that told nothing."""
    gains = TreeGains(0.9)
    gains.add(TREE, 8, 2)
    for _ in range(num_fades):
        gains.fade(num_steps)
        if looks:
            gains.tokens(TreeGains(0.9), 8, 4)
    gains.add(TREE, 8, 2)
    return gains


def test_steps_count_alike_one_by_one_or_together_looked_at_or_not() -> None:
    prior = TreeGains(0.9)
    found = [seen(6, 1), seen(6, 1, looks=True), seen(1, 6)]
    tokens = [gains.tokens(prior, 8, 4) for gains in found]
    np.testing.assert_allclose(tokens[1], tokens[0])
    np.testing.assert_allclose(tokens[2], tokens[0])


def test_what_was_seen_long_ago_counts_less() -> None:
    prior = TreeGains(0.9)
    latest, old = TreeGains(0.9), TreeGains(0.9)
    for gains in (latest, old):
        for _ in range(20):
            gains.add(TREE, 8, 2)
    old.fade(200)
    untouched = prior.tokens(prior, 8, 4)
    np.testing.assert_allclose(old.tokens(prior, 8, 4), untouched, atol=1e-6)
    assert abs(latest.tokens(prior, 8, 4) - untouched).max() > 0.1
