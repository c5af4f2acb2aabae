"""Ways to answer a load take turns at the same requests, round by round; what came of it, as medians and as ratios."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.fleet.__main__ import outcome_cells
from benchmarks.fleet.calibration import LONG
from benchmarks.fleet.workload import Arrival, Outcome, Served
from benchmarks.load.asking import Asking

_NUM_WARM_UP_REQUESTS = 8
_NUM_WARM_UP_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Way:
    """How requests are answered: by whom, and behind which token ids that all prompts begin with."""

    asking: Asking
    prefix: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As in the table."""
        return self.asking.name + (", prefix shared" if self.prefix else "")


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, the same for all ways. ``num_clients`` share them; ``None``: each comes at its time."""

    name: str
    arrivals: tuple[Arrival, ...]
    num_clients: int | None

    async def asked(self, way: Way) -> list[Served]:
        """All of them."""
        if self.num_clients is None:
            return await way.asking.open_loop(self.arrivals, way.prefix)
        return await way.asking.closed_loop(self.arrivals, self.num_clients, way.prefix)

    async def warm_up(self, way: Way) -> None:
        """A few of them at once, cut short: what a server makes once, it makes now."""
        few = [
            Arrival(0.0, each.prompt_len, _NUM_WARM_UP_TOKENS, each.prompt)
            for each in self.arrivals[:_NUM_WARM_UP_REQUESTS]
        ]
        await way.asking.open_loop(few, way.prefix)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request must keep to count as good."""

    first_token_s: float
    token_s: float


async def by_turns(
    load: Load,
    ways: Sequence[Way],
    num_rounds: int,
    limits: Limits,
    services_cpu_s: Callable[[], float],
    say: Callable[[str], None],
) -> list[list[Outcome]]:
    """All ways' outcomes, one of each round.

    ``services_cpu_s`` is the processor time of our services so far. What they used in the turn of another server is said: it should be
    hardly any. So is what this program used itself, which no server has.
    """
    outcomes: list[list[Outcome]] = [[] for _ in ways]
    for number in range(num_rounds):
        for way, of_way in zip(ways, outcomes, strict=True):
            with way.asking.turn():
                if number == 0:
                    await load.warm_up(way)
                cpu_s, own_s, start_s = services_cpu_s(), time.process_time(), time.perf_counter()
                outcome = Outcome.of(await load.asked(way), limits.first_token_s, limits.token_s)
                took_s = time.perf_counter() - start_s
            of_way.append(outcome)
            shares = f"this program used {(time.process_time() - own_s) / took_s:.1%} of a core"
            if not way.asking.is_ours:
                shares += f", the idle suite {(services_cpu_s() - cpu_s) / took_s:.1%}"
            round_name = f", round {number + 1} of {num_rounds}" if num_rounds > 1 else ""
            say(f"{load.name}{round_name}: {way.name}: {_in_words(outcome)}; {shares}")
    return outcomes


def _in_words(outcome: Outcome) -> str:
    _, rate, first, token, gap, _ = outcome_cells(outcome)
    return f"{rate} tokens/s, first token {first} ms, token {token} ms, between tokens {gap} ms"


def median_of(outcomes: Sequence[Outcome]) -> Outcome:
    """Of each figure by itself."""

    def three(values: Iterable[tuple[float, float, float]]) -> tuple[float, float, float]:
        half, most, nearly_all = (statistics.median(each) for each in zip(*values, strict=True))
        return half, most, nearly_all

    return Outcome(
        num_requests=outcomes[0].num_requests,
        tokens_per_s=statistics.median(each.tokens_per_s for each in outcomes),
        first_token_ms=three(each.first_token_ms for each in outcomes),
        token_ms=three(each.token_ms for each in outcomes),
        gap_ms=three(each.gap_ms for each in outcomes),
        goodput=statistics.median(each.goodput for each in outcomes),
    )


def ratio_cells(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> list[str]:
    """The medians of each round's ratios; of the rates also the lowest and the highest. As wide as ``outcome_cells``."""
    pairs = list(zip(ours, theirs, strict=True))
    rates = [a.tokens_per_s / b.tokens_per_s for a, b in pairs]
    rate = f"{statistics.median(rates):.2f}" + (f" ({min(rates):.2f} to {max(rates):.2f})" if len(rates) > 1 else "")
    times = [
        [(a.first_token_ms, b.first_token_ms) for a, b in pairs],
        [(a.token_ms, b.token_ms) for a, b in pairs],
        [(a.gap_ms, b.gap_ms) for a, b in pairs],
    ]
    return ["", rate, *(_ratios(of_rounds) for of_rounds in times), ""]


def _ratios(of_rounds: Sequence[tuple[tuple[float, ...], tuple[float, ...]]]) -> str:
    """None where a time is 0 in any round: of tokens that came together. To leave such rounds out would choose among them."""
    cells = []
    for place in range(len(of_rounds[0][0])):
        pairs = [(a[place], b[place]) for a, b in of_rounds]
        cells.append(f"{statistics.median(a / b for a, b in pairs):.2f}" if all(a and b for a, b in pairs) else "-")
    return " / ".join(cells)


def ratio_rows(ways: Sequence[Way], outcomes: Sequence[Sequence[Outcome]]) -> list[list[str]]:
    """Ours ÷ theirs, of each way of ours beside each other server's with the same prefix."""
    found = list(zip(ways, outcomes, strict=True))
    return [
        [f"  {our.name} ÷ {their.asking.name}", *ratio_cells(of_ours, of_theirs)]
        for our, of_ours in found
        for their, of_theirs in found
        if our.asking.is_ours and not their.asking.is_ours and our.prefix == their.prefix
    ]


def own_prompts(arrivals: Iterable[Arrival]) -> tuple[Arrival, ...]:
    """Each with a prompt of its own; they stand behind the two for calibration."""
    return tuple(
        Arrival(each.at_s, each.prompt_len, each.output_len, LONG + 1 + number) for number, each in enumerate(arrivals)
    )
