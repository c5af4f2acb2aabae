"""The watchdog by a clock that tests turn."""

from __future__ import annotations

from specgrove.runtime.watchdog import Watchdog


class Watched:
    """A watchdog with a limit of 10 s, and what it has said."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.told: list[str] = []
        self.dog = Watchdog(10.0, lambda: self.now_s, self.told.append)

    def after(self, seconds: float) -> list[str]:
        self.now_s += seconds
        self.dog.check()
        return self.told


def test_a_hang_is_told_once() -> None:
    watched = Watched()
    watched.dog.begin()
    assert watched.after(10.0) == []
    assert watched.after(0.1) == ["a step has not ended in 10 s"]
    assert len(watched.after(100.0)) == 1


def test_time_counts_from_the_latest_beginning_and_not_after_an_end() -> None:
    watched = Watched()
    assert watched.after(100.0) == []
    for _ in range(3):
        watched.dog.begin()
        assert watched.after(9.0) == []
    watched.dog.end()
    assert watched.after(100.0) == []


def test_whoever_has_stopped_is_not_watched() -> None:
    watched = Watched()
    watched.dog.begin()
    watched.dog.stop()
    assert watched.after(100.0) == []
