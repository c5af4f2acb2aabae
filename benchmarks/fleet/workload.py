"""Requests as operators see them: they come when they come, whether or not those before are done. Open loop, from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

S_PER_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: when it comes, in seconds from the start, and its lengths in tokens. ``prompt`` says which prompt it is."""

    at_s: float
    prompt_len: int
    output_len: int
    prompt: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests at random times (Poisson), of mixed lengths."""

    rate_per_s: float
    prompt_lens: tuple[int, ...]
    """Of the prompts there are; each request has one of them."""
    output_lens: tuple[int, ...]
    """Each request has one of these lengths, all of them equally often."""

    def __post_init__(self) -> None:
        if self.rate_per_s <= 0:
            raise ValueError(f"the rate must be above 0 requests a second, got {self.rate_per_s:g}")
        if not self.prompt_lens or min(self.prompt_lens) < 1 or not self.output_lens or min(self.output_lens) < 1:
            raise ValueError("prompts and outputs must have 1 token at least")

    def arrivals(self, duration_s: float, seed: int = 0) -> list[Arrival]:
        """All that come within ``duration_s``, in their order. The same seed gives the same requests at any rate."""
        times, lengths = random.Random(f"{seed} times"), random.Random(f"{seed} lengths")
        found: list[Arrival] = []
        at_s = times.expovariate(1.0) / self.rate_per_s
        while at_s < duration_s:
            prompt = lengths.randrange(len(self.prompt_lens))
            found.append(Arrival(at_s, self.prompt_lens[prompt], lengths.choice(self.output_lens), prompt))
            at_s += times.expovariate(1.0) / self.rate_per_s
        return found


@dataclass(frozen=True, slots=True)
class Served:
    """What became of one request, in seconds from the start. ``token_times_s`` has one time for each token."""

    arrival: Arrival
    token_times_s: tuple[float, ...]

    @property
    def first_token_s(self) -> float:
        """Time to the first token."""
        return self.token_times_s[0] - self.arrival.at_s

    @property
    def gaps_s(self) -> list[float]:
        """Times between tokens. Tokens of one step come together."""
        return [later - earlier for earlier, later in zip(self.token_times_s, self.token_times_s[1:], strict=False)]

    @property
    def s_per_token(self) -> float:
        """Mean time of an output token after the first one; 0 where there is none."""
        num_later = len(self.token_times_s) - 1
        return (self.token_times_s[-1] - self.token_times_s[0]) / num_later if num_later else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave, measured or simulated. Times in milliseconds."""

    num_requests: int
    tokens_per_s: float
    first_token_ms: tuple[float, float, float]
    """Half, 95 % and 99 % of the requests have it by then."""
    token_ms: tuple[float, float, float]
    """The same of each request's mean time of a token after the first."""
    gap_ms: tuple[float, float, float]
    """The same of all times between tokens."""
    goodput: float
    """The share of the requests that kept the limits."""

    @staticmethod
    def of(served: Sequence[Served], first_token_limit_s: float, token_limit_s: float) -> Outcome:
        """Raises ``ValueError`` where nothing was served."""
        if not served:
            raise ValueError("no request was served")
        start_s = min(each.arrival.at_s for each in served)
        end_s = max(each.token_times_s[-1] for each in served)
        good = [
            each for each in served if each.first_token_s <= first_token_limit_s and each.s_per_token <= token_limit_s
        ]
        return Outcome(
            len(served),
            sum(len(each.token_times_s) for each in served) / (end_s - start_s),
            _three([each.first_token_s for each in served]),
            _three([each.s_per_token for each in served if len(each.token_times_s) > 1]),
            _three([gap for each in served for gap in each.gaps_s]),
            len(good) / len(served),
        )


def _three(values_s: Sequence[float]) -> tuple[float, float, float]:
    if not values_s:
        return 0.0, 0.0, 0.0
    half, most, nearly_all = np.quantile(values_s, (0.5, 0.95, 0.99), method="inverted_cdf") * 1e3
    return float(half), float(most), float(nearly_all)
