"""What is kept of what the verifier told: its bounds, gaps, and that each row is copied once, however many pieces there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specgrove.loop import told as told_module
from specgrove.loop.told import HiddenRoom, Told
from specgrove.loop.verifier_knowledge import DrafterWishes, HiddenStates, RowTopK, joined
from specgrove.loop.works import PromptProgress

LAYERS = (1, 3)
ROW_BYTES = 8


def states(first: int, end: int, layers: tuple[int, ...] = LAYERS, mark: int = 0) -> HiddenStates:
    """Each row's bytes tell its position, and who told it."""
    values = b"".join(bytes([position, mark]) * (ROW_BYTES // 2) for position in range(first, end))
    return HiddenStates(first, end - first, layers, values)


def of(told: Told, *pieces: HiddenStates) -> Told:
    for piece in pieces:
        told.add(PromptProgress(0, hidden_states=piece))
    return told


def with_window(window: int) -> Told:
    return Told(DrafterWishes(LAYERS, window))


def test_rows_come_as_one_piece_from_where_they_are_wanted() -> None:
    told = of(with_window(100), states(0, 4), states(4, 5), states(5, 9))
    assert told.hidden_states(0, 9) == states(0, 9)
    assert told.hidden_states(3, 6) == states(3, 6)
    assert told.hidden_states(9, 12) is None


def test_the_oldest_pieces_go_when_the_window_is_full() -> None:
    told = of(with_window(10), *(states(start, start + 2) for start in range(0, 40, 2)))
    assert told.hidden_states(0, 40) == states(30, 40)


def test_rows_that_a_message_can_not_carry_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(told_module, "MAX_HIDDEN_BYTES", 6 * ROW_BYTES)
    told = of(with_window(100), *(states(start, start + 1) for start in range(20)))
    assert told.hidden_states(0, 20) == states(14, 20)


def test_of_all_requests_together_those_told_longest_ago_go() -> None:
    room = HiddenRoom(10 * ROW_BYTES)
    first, second = (Told(DrafterWishes(LAYERS, 100), room) for _ in range(2))
    of(first, states(0, 2), states(2, 4))
    of(second, states(0, 4), states(4, 7))
    assert first.hidden_states(0, 4) == states(2, 4)
    of(first, states(4, 5))  # is the last one now: `second` gives way
    of(first, states(5, 7))
    assert second.hidden_states(0, 7) == states(4, 7)
    assert first.hidden_states(0, 7) == states(2, 7)
    assert room.num_bytes == 8 * ROW_BYTES
    of(first, states(7, 20))  # more than there is room for: its own stay, as without others
    assert (first.hidden_states(0, 20), second.hidden_states(0, 7)) == (states(2, 20), None)
    first.close()
    second.close()
    assert room.num_bytes == 0


def test_a_gap_or_other_layers_begin_anew_and_rows_told_twice_count_once() -> None:
    assert of(with_window(100), states(0, 4), states(6, 8)).hidden_states(0, 8) == states(6, 8)
    assert of(with_window(100), states(0, 4), states(4, 6, (1, 5))).hidden_states(0, 8) == states(4, 6, (1, 5))
    assert of(with_window(100), states(0, 4), states(0, 3), states(2, 6)).hidden_states(0, 8) == states(0, 6)
    assert with_window(0).hidden_states(0, 8) is None


def test_who_was_not_asked_for_long_misses_the_oldest_rows_top() -> None:
    told = with_window(0)
    told._add_rows(RowTopK(position, 0, ()) for position in range(1500))
    assert [row.position for row in told.rows_since(0)] == list(range(476, 1500))
    assert [row.position for row in told.rows_since(1498)] == [1498, 1499]
    assert told.rows_since(1500) == ()


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5), st.booleans()), max_size=8))
def test_joining_is_as_piece_by_piece(pieces: list[tuple[int, int, bool]]) -> None:
    parts = [
        states(first, first + count, LAYERS if is_same else (0, 2), mark)
        for mark, (first, count, is_same) in enumerate(pieces)
    ]
    rows: dict[int, tuple[tuple[int, ...], int]] = {}
    for mark, part in enumerate(parts):
        own = range(part.first_position, part.end_position)
        if rows and (next(iter(rows.values()))[0] != part.layers or part.first_position > max(rows) + 1):
            rows = {}
        rows = {position: row for position, row in rows.items() if position < part.first_position}
        rows |= dict.fromkeys(own, (part.layers, mark))
    found = joined(parts)
    if found is None:
        assert not rows
        return
    found.check()
    assert (found.first_position, found.end_position) == (min(rows), max(rows) + 1)
    told = [found.values[place : place + 2] for place in range(0, len(found.values), ROW_BYTES)]
    assert told == [bytes([position, mark]) for position, (_, mark) in sorted(rows.items())]


def test_each_row_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    num_bytes = 0
    made = HiddenStates

    def counted(first: int, count: int, layers: tuple[int, ...], values: bytes) -> HiddenStates:
        nonlocal num_bytes
        num_bytes += len(values)
        return made(first, count, layers, values)

    parts = [states(position, position + 1) for position in range(200)]
    monkeypatch.setattr("specgrove.loop.verifier_knowledge.HiddenStates", counted)
    assert joined(parts) == states(0, 200)
    assert num_bytes == 200 * ROW_BYTES
