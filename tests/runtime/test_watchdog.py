"""The watchdog, with looks that tests make."""

from __future__ import annotations

from specgrove.runtime.watchdog import Watchdog


class Watched:
    """A watchdog with a limit of 10 s, and what it has said."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.dog = Watchdog(10.0, self.told.append)

    def after(self, seconds: int) -> list[str]:
        for _ in range(seconds):
            self.dog.look()
        return self.told


def test_it_looks_each_second_or_more_often() -> None:
    assert Watched().dog.interval_s == 1.0
    assert Watchdog(2.0, print).interval_s == 0.5


def test_a_hang_is_told_once() -> None:
    watched = Watched()
    watched.dog.begin()
    assert watched.after(11) == []
    assert watched.after(1) == ["a step has not ended in 10 s"]
    assert len(watched.after(100)) == 1


def test_time_counts_from_the_latest_beginning_and_not_after_an_end() -> None:
    watched = Watched()
    assert watched.after(100) == []
    for _ in range(3):
        watched.dog.begin()
        assert watched.after(9) == []
    watched.dog.end()
    assert watched.after(100) == []


def test_whoever_has_stopped_is_not_watched() -> None:
    watched = Watched()
    watched.dog.begin()
    watched.dog.stop()
    assert watched.after(100) == []
