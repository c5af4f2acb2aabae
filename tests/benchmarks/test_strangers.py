"""What a stream's gaps are told as."""

from __future__ import annotations

from benchmarks.strangers.__main__ import Gaps


def test_gaps_are_told_by_the_largest_and_those_above_the_limit() -> None:
    gaps = Gaps(tuple([10.0] * 197 + [20.0, 51.0, 80.0]))
    assert str(gaps) == "80 ms (p99 51, 2 above 50)"
    assert str(Gaps((50.0,))) == "50 ms (p99 50, 0 above 50)"
