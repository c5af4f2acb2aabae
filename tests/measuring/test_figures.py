"""Quartiles, and what usages add up to."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from specgrove.client.output import tokens_per_step
from specgrove.errors import UnavailableError
from specgrove.measuring.answering import acceptance_by_depth, answer_all, drafted_share
from specgrove.measuring.prompt_sets import Decoded
from specgrove.measuring.quartiles import Quartiles
from tests.measuring.made import answers, usage


def test_quartiles_lie_within_the_values() -> None:
    assert Quartiles.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Quartiles(2.0, 3.0, 4.0)
    assert Quartiles.of([7.0]) == Quartiles(7.0, 7.0, 7.0)


def test_acceptance_is_by_depth_over_all_requests() -> None:
    usages = [
        usage(6, 4, drafted=(3, 2), accepted=(2, 1)),
        usage(2, 2, drafted=(1,), accepted=(0,)),
        usage(2, 2),
    ]
    assert acceptance_by_depth(usages) == (0.5, 0.5)
    assert drafted_share(usages) == 0.5
    assert tokens_per_step(usages) == 1.25
    assert (acceptance_by_depth([]), drafted_share([]), tokens_per_step([])) == ((), 0.0, 0.0)


def test_a_token_takes_its_share_of_the_whole_request() -> None:
    decoded = Decoded.of([answers(2.0, 1, 2), answers(1.0, 1, 2, 3, 4)])
    # 1 ms to the first token and 1 ms of decoding, over two tokens and over four.
    assert decoded.ms_per_token == Quartiles(pytest.approx(0.625), 0.75, pytest.approx(0.875))
    assert (decoded.num_tokens, decoded.tokens_per_s) == (6, 2.0)


class FailingClient:
    """Its second answer fails; the others come when it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.asked: list[str] = []

    def complete(self, prompt: str, **_: object) -> None:
        self.asked.append(prompt)
        if prompt == "two":
            raise UnavailableError("gone")
        self.closed.wait()

    def close(self) -> None:
        self.closed.set()


def test_one_answer_that_fails_calls_the_others_off() -> None:
    client: Any = FailingClient()
    with pytest.raises(UnavailableError, match="gone"):
        answer_all(client, ["one", "two", "three", "four"], {}, num_at_once=2)
    assert client.closed.is_set()
    assert client.asked[:2] == ["one", "two"]
