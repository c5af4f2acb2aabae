"""Pairwise combinations."""

from __future__ import annotations

import itertools

import pytest

from tests.pairs import in_turn, pairs, pairs_and


def test_every_two_values_meet_in_far_fewer_combinations() -> None:
    axes = [range(10), "abcde", range(3), [True, False]]
    found = pairs(*axes)
    for (left, lefts), (right, rights) in itertools.combinations(enumerate(axes), 2):
        assert {(one[left], one[right]) for one in found} == set(itertools.product(lefts, rights))
    assert 50 <= len(found) <= 60


def test_of_two_axes_all_combinations_are_there() -> None:
    assert sorted(pairs([1, 2], [3, 4, 5])) == list(itertools.product([1, 2], [3, 4, 5]))


def test_the_others_come_behind_with_a_mark() -> None:
    axes = [range(2), "ab", [True, False]]
    plain, marked = pairs(*axes), pairs_and(pytest.mark.slow, *axes)
    assert marked[: len(plain)] == plain
    others = marked[len(plain) :]
    assert {*plain, *(other.values for other in others)} == set(itertools.product(*axes))
    assert len(plain) + len(others) == 8
    assert {mark.name for other in others for mark in other.marks} == {"slow"}


def test_each_value_has_one_of_the_ways_in_turn() -> None:
    found = in_turn(pytest.mark.slow, "abcd", (1, 2))
    assert [each.values for each in found if not each.marks] == [("a", 1), ("b", 2), ("c", 1), ("d", 2)]
    assert [each.values for each in found] == list(itertools.product("abcd", (1, 2)))
