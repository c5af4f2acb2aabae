"""What was simulated beside what was measured, request by request. Used by ``benchmarks.load --check``.

A percentile of few requests of few lengths is one request's time: it jumps to the next length's where two change places, and its ratio
says little. Ratios of the same request don't jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.fleet.workload import Served

Quartiles = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Ratios:
    """Measured ÷ simulated: a quarter, half and three quarters of the requests have no higher one."""

    first_token: Quartiles
    token: Quartiles | None
    """Of each request's mean time of a token after the first; ``None`` where no request has a second one."""
    message: Quartiles | None
    """Of its mean time between messages, as several tokens may come in one."""


def ratios(measured: Sequence[Served], simulated: Sequence[Served]) -> Ratios:
    """Both of the same arrivals, in any order. Raises ``ValueError`` where they are not."""
    pairs = list(zip(_by_arrival(measured), _by_arrival(simulated), strict=True))
    if any(_lens(one) != _lens(other) for one, other in pairs):
        raise ValueError("what was simulated are other requests than what was measured")
    return Ratios(
        _quartiles([one.first_token_s / other.first_token_s for one, other in pairs]),
        _quartiles_of_any([(one.s_per_token, other.s_per_token) for one, other in pairs]),
        _quartiles_of_any([(_s_per_message(one), _s_per_message(other)) for one, other in pairs]),
    )


def _by_arrival(served: Sequence[Served]) -> list[Served]:
    return sorted(served, key=lambda each: each.arrival.at_s)


def _lens(served: Served) -> tuple[int, int]:
    return served.arrival.prompt_len, served.arrival.output_len


def _s_per_message(served: Served) -> float:
    """0 where all tokens come in one."""
    times_s = sorted(set(served.token_times_s))
    return (times_s[-1] - times_s[0]) / (len(times_s) - 1) if len(times_s) > 1 else 0.0


def _quartiles_of_any(pairs: Sequence[tuple[float, float]]) -> Quartiles | None:
    """Of those where both are there."""
    found = [one / other for one, other in pairs if one and other]
    return _quartiles(found) if found else None


def _quartiles(found: Sequence[float]) -> Quartiles:
    low, half, high = np.quantile(found, (0.25, 0.5, 0.75))
    return float(low), float(half), float(high)


def ratio_words(found: Ratios) -> str:
    """As ``--check`` prints them."""
    parts = (("first token", found.first_token), ("token", found.token), ("between messages", found.message))
    words = ", ".join(f"{name} {_words(quartiles)}" for name, quartiles in parts if quartiles is not None)
    return f"measured / simulated of the same request, median and quartiles: {words}"


def _words(quartiles: Quartiles) -> str:
    low, half, high = quartiles
    return f"{half:.2f} ({low:.2f} to {high:.2f})"
