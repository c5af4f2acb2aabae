"""Trees of SSMs without weights are ones that the router takes, whatever the text, and whether the session is sampled or not."""

from __future__ import annotations

import math

from hypothesis import example, given, settings
from hypothesis import strategies as st

from specgrove.loop.token_tree import TokenTree
from specgrove.loop.verifier_knowledge import DraftSampling, RowTopK
from specgrove.loop.works import TreeShape
from ssm_service.corpus import Corpus
from ssm_service.lookup import LookupSsm
from ssm_service.noisy_rates import NoisyRates
from ssm_service.recycle import RecycleSsm

SAMPLED = st.sampled_from([0.3, 0.8, 1.0, 1.4])
SAMPLINGS = st.one_of(st.none(), st.builds(DraftSampling, SAMPLED, st.integers(0, 2**64 - 1)))
TEXTS = st.lists(st.integers(0, 4), min_size=2, max_size=60)
SHAPES = st.builds(TreeShape, st.integers(1, 16), st.integers(1, 6))


def check(tree: TokenTree) -> None:
    tree.validated(vocab_size=10, max_num_nodes=64)
    for node in range(tree.num_nodes):
        siblings = [math.exp(tree.log_probs[child]) for child, parent in enumerate(tree.parents) if parent == node]
        assert sum(siblings) <= 1 + 1e-5


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, SHAPES, SAMPLINGS)
@example([1, 2], [1, 2, 3, 9, 1, 2, 4, 8, 1, 2], TreeShape(8, 4), DraftSampling(0.8, 7))
def test_of_lookup(earlier: list[int], text: list[int], shape: TreeShape, sampling: DraftSampling | None) -> None:
    ssm = LookupSsm("lookup", Corpus(1000))
    ssm.draft("earlier", [9], shape)
    ssm.draft("earlier", [9, *earlier], shape)
    ssm.drop("earlier")
    check(ssm.draft("s", text, shape, sampling))
    check(ssm.draft("s", [*text, 1, 2, 3], shape, sampling))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 4), max_size=5, unique=True)), max_size=8),
    SHAPES,
    SAMPLINGS,
)
def test_of_recycle(rows: list[tuple[int, list[int]]], shape: TreeShape, sampling: DraftSampling | None) -> None:
    told = [RowTopK(0, token_id, tuple((each, -1.0) for each in following)) for token_id, following in rows]
    check(RecycleSsm("recycle").draft("s", [9, 1], shape, sampling, told))


def test_a_row_is_the_same_beside_wider_ones() -> None:
    wide, narrow = [(5, math.log(0.3)), (6, math.log(0.2))], [(7, math.log(0.4))]
    for seed in range(10):
        both, alone = NoisyRates(seed), NoisyRates(seed)
        both.add(3, wide)
        both.add(4, narrow)
        alone.add(4, narrow)
        assert both.log_probs()[1][7] == alone.log_probs()[0][7] < 0
