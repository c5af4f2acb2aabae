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
        while seconds > 0:  # it looks about once a second
            self.now_s += min(seconds, 1.0)
            seconds -= 1.0
            self.dog.look()
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


def test_the_time_for_which_the_process_was_stopped_does_not_count() -> None:
    watched = Watched()
    watched.dog.begin()
    assert watched.after(9.0) == []
    watched.now_s += 3600.0
    watched.dog.look()
    assert watched.told == []
    assert watched.after(2.0) == ["a step has not ended in 10 s"]


def test_what_begins_after_a_stop_has_all_of_its_time() -> None:
    watched = Watched()
    watched.now_s += 3600.0
    watched.dog.look()
    watched.dog.begin()
    assert watched.after(10.0) == []
    assert watched.after(1.0) == ["a step has not ended in 10 s"]
