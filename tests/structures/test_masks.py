"""What an output pays for: its own tokens, and nothing that was drafted."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from specgrove.structures import masks
from specgrove.structures.grammars import Allowed, OutputMatcher
from specgrove.structures.masks import MAX_S_PER_TOKEN, Answer, MaskMaker, Question

MAX_S = 0.1
NO_TREE = ((0,), (-1,))
CHAIN = ((0, *[1] * 9), tuple(range(-1, 9)))


class Costly:
    """A matcher that allows everything. A mask, and a drafted path that is tried, cost so many seconds."""

    is_spent = has_started_anew = False

    def __init__(self, clock: SimpleNamespace, mask_s: float, path_s: float) -> None:
        self._clock, self._mask_s, self._path_s = clock, mask_s, path_s
        self.num_tokens = 0

    def go_to(self, output_token_ids: Sequence[int], path: Sequence[int]) -> None:
        self.num_tokens = len(output_token_ids) + len(path)

    def rewind(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def num_possible(self, token_ids: Sequence[int]) -> int:
        self._clock.now_s += self._path_s
        return len(token_ids)

    def allowed(self) -> Allowed:
        self._clock.now_s += self._mask_s
        return Allowed(b"\xff", 8, may_end=True)


def answers(
    monkeypatch: pytest.MonkeyPatch, mask_s: float, path_s: float, tree: tuple[tuple[int, ...], tuple[int, ...]]
) -> list[list[Answer]]:
    """To 60 questions of one output, a token each, with all that is found out about the nodes of the same tree each time."""
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(masks, "time", SimpleNamespace(thread_time=lambda: clock.now_s))
    maker = MaskMaker(lambda: cast("OutputMatcher", Costly(clock, mask_s, path_s)), max_s=MAX_S)
    found: list[list[Answer]] = []
    for number in range(60):
        question = Question(0, number, number, (1,), *tree)
        found.append([maker.with_possible_nodes(question, maker.answer(question))])
        while maker.has_more:
            if (explored := maker.explored()) is not None:
                found[-1].append(explored)
    return found


@pytest.mark.parametrize(("mask_s", "path_s"), [(0.004, 0.0), (0.0001, 0.004), (0.0, 9.0), (0.03, 0.0)])
def test_with_trees_an_output_goes_as_far_as_without(
    monkeypatch: pytest.MonkeyPatch, mask_s: float, path_s: float
) -> None:
    plain, drafted = (answers(monkeypatch, mask_s, path_s, tree) for tree in (NO_TREE, CHAIN))
    assert [(found[0].allowed, found[0].problem) for found in drafted] == [
        (found[0].allowed, found[0].problem) for found in plain
    ]
    assert any(found[0].problem for found in plain) == (mask_s > MAX_S_PER_TOKEN)


def test_what_is_drafted_has_as_much_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    found = answers(monkeypatch, 0.004, 0.0, CHAIN)
    num_explored = sum(len(of_question) - 1 for of_question in found)
    assert len(found[0]) == 10
    assert len(found[-1]) < 10
    assert num_explored * 0.004 == pytest.approx(MAX_S + 60 * MAX_S_PER_TOKEN, abs=0.01)


def test_the_time_that_is_left_counts_the_tokens_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(masks, "time", SimpleNamespace(thread_time=lambda: clock.now_s))
    maker = MaskMaker(lambda: cast("OutputMatcher", Costly(clock, MAX_S, 0.0)), max_s=MAX_S)
    first, second = Question(0, 1, 0, ()), Question(0, 2, 0, (1, 1))
    assert maker.left_s(first) == pytest.approx(MAX_S)
    assert maker.answer(first).allowed is not None
    assert maker.left_s(second) == pytest.approx(2 * MAX_S_PER_TOKEN)
    assert maker.answer(second).allowed is not None


def test_a_drafted_path_does_not_use_up_what_the_output_may_do_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=0.0)
    monkeypatch.setattr(masks, "time", SimpleNamespace(thread_time=lambda: clock.now_s))
    made = []

    class StartsAnew(Costly):
        def go_to(self, output_token_ids: Sequence[int], path: Sequence[int]) -> None:
            super().go_to(output_token_ids, path)
            self.has_started_anew |= bool(path)

    def matcher() -> OutputMatcher:
        made.append(StartsAnew(clock, 0.0, 0.0))
        return cast("OutputMatcher", made[-1])

    maker = MaskMaker(matcher, max_s=MAX_S)
    question = Question(0, 0, 0, (1,), *CHAIN)
    maker.with_possible_nodes(question, maker.answer(question))
    while maker.has_more:
        maker.explored()
    assert len(made) == 10
    assert not made[-1].has_started_anew
    assert made[-1].num_tokens == 1
