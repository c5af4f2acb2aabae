"""Drafting by matching: what is proposed, how it is weighted, and that sessions and the corpus are kept in bounds."""

from __future__ import annotations

from specgrove.request import TreeShape
from ssm_service.lookup import LookupSsm

SHAPE = TreeShape(max_num_nodes=8, max_depth=4)


def test_proposes_what_followed_the_same_words() -> None:
    tree = LookupSsm("lookup").draft("s", [1, 2, 3, 4, 5, 9, 1, 2, 3], SHAPE)
    assert tree.token_ids == (3, 4, 5, 9, 1)
    assert tree.parents == (-1, 0, 1, 2, 3)
    assert all(log_prob < 0 for log_prob in tree.log_probs[1:])


def test_alternatives_become_branches_and_longer_matches_win() -> None:
    tree = LookupSsm("lookup").draft("s", [7, 1, 2, 4, 4, 7, 1, 2, 5, 5, 7, 1, 2], SHAPE)
    children = {tree.token_ids[node] for node in range(1, tree.num_nodes) if tree.parents[node] == 0}
    assert children == {4, 5}
    tree = LookupSsm("lookup").draft("s", [7, 1, 2, 4, 4, 8, 1, 2, 5, 5, 7, 1, 2], SHAPE)
    assert tree.token_ids[1] == 4
    assert 5 not in {tree.token_ids[node] for node in range(1, tree.num_nodes) if tree.parents[node] == 0}


def test_nothing_matches_nothing_is_proposed() -> None:
    ssm = LookupSsm("lookup")
    assert ssm.draft("s", [1, 2, 3, 4], SHAPE).num_nodes == 1
    assert ssm.draft("t", [1, 2, 1, 2], TreeShape(0, 0)).num_nodes == 1


def test_grows_with_the_session_and_remembers_closed_ones() -> None:
    ssm = LookupSsm("lookup")
    ssm.draft("s", [1, 2, 3], SHAPE)
    assert ssm.draft("s", [1, 2, 3, 4, 1, 2, 3], SHAPE).token_ids[1] == 4
    ssm.drop("s")
    ssm.drop("s")
    assert ssm.draft("t", [9, 1, 2, 3], SHAPE).token_ids[1] == 4


def test_confidence_follows_what_came_true() -> None:
    right, wrong = LookupSsm("right"), LookupSsm("wrong")
    for step in range(1, 40):
        right.draft("s", [1, 2, 3] * step, SHAPE)
        wrong.draft("s", [1, 2, 3, *(x for i in range(step) for x in (50 + i, 1, 2, 3))], SHAPE)
    sure = right.draft("t", [1, 2, 3, 4, 5, 1, 2, 3, 4, 5], SHAPE).log_probs[1]
    unsure = wrong.draft("t", [1, 2, 3, 4, 5, 1, 2, 3], SHAPE).log_probs[1]
    assert sure > unsure
