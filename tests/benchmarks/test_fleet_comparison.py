"""Measured beside simulated: the same request's times, whatever the percentiles are."""

from __future__ import annotations

import pytest

from benchmarks.fleet.comparison import ratio_words, ratios
from benchmarks.fleet.workload import Arrival, Outcome, Served


def served(at_s: float, prompt_len: int, *token_times_s: float) -> Served:
    return Served(Arrival(at_s, prompt_len, len(token_times_s), 0), tuple(at_s + each for each in token_times_s))


SIMULATED = [
    served(0.0, 10, 0.1, 0.2),
    served(1.0, 10, 0.1, 0.2),
    served(2.0, 400, 1.0, 1.2),
    served(3.0, 400, 1.0, 1.2),
]


def test_a_request_that_changes_places_is_one_of_four() -> None:
    """The second request had to wait for long: the median of first tokens is ten times the simulated one, that of the ratios is 1."""
    measured = [SIMULATED[0], served(1.0, 10, 1.1, 1.2), *SIMULATED[2:]]
    found = ratios(list(reversed(measured)), SIMULATED)
    assert found.first_token == pytest.approx((1.0, 1.0, 3.5))
    assert found.token == pytest.approx((1.0, 1.0, 1.0))
    halves = [Outcome.of(each, 9.0, 9.0).first_token_ms[0] for each in (measured, SIMULATED)]
    assert halves[0] / halves[1] == pytest.approx(10.0)
    same = "1.00 (1.00 to 1.00)"
    assert ratio_words(found).endswith(f"first token 1.00 (1.00 to 3.50), token {same}, between messages {same}")


def test_tokens_that_come_together_are_fewer_messages() -> None:
    """Twice as long between messages, and the same for a token."""
    one_by_one, in_twos = served(0.0, 10, 0.1, 0.2, 0.3, 0.4, 0.5), served(0.0, 10, 0.1, 0.3, 0.3, 0.5, 0.5)
    found = ratios([in_twos], [one_by_one])
    assert found.token == pytest.approx((1.0, 1.0, 1.0))
    assert found.message == pytest.approx((2.0, 2.0, 2.0))


def test_one_token_has_no_time_after_the_first() -> None:
    single = [served(0.0, 10, 0.1), *SIMULATED[1:]]
    assert ratios(single, single).token == pytest.approx((1.0, 1.0, 1.0))
    found = ratios(single[:1], single[:1])
    assert found.token is found.message is None
    assert ratio_words(found).endswith("first token 1.00 (1.00 to 1.00)")


def test_other_requests_are_not_compared() -> None:
    with pytest.raises(ValueError, match="other requests"):
        ratios([served(each.arrival.at_s, 20, 0.1, 0.2) for each in SIMULATED], SIMULATED)
