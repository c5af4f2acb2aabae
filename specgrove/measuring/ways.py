"""Ways to decode the same prompts, compared by turns: without speculation, with all SSMs together, and with each alone.

An SSM may remember an output, and would know it when it is asked again. So each prompt is answered with speculation once, by one of the
ways, and once without, right before or after it: each way's speed-up is a median of such pairs. All ways take their turns in every
round, so that a machine that changes from minute to minute slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specgrove.client import Client
from specgrove.client.arguments import Prompt
from specgrove.client.wire import GenerateParams
from specgrove.loop.request import SpeculationOptions
from specgrove.measuring.answering import Answers, answer_all

_WARM_UP = "Count to ten."
_NUM_WARM_UP_TOKENS = 16
_INCREMENTAL = SpeculationOptions(disabled=True)


@dataclass(frozen=True, slots=True)
class Way:
    """SSMs that draft together."""

    ssms: tuple[str, ...]

    @property
    def name(self) -> str:
        """For tables."""
        return " + ".join(self.ssms)


@dataclass(frozen=True, slots=True)
class Turn:
    """Prompts that one way answers, and incremental decoding before or after it."""

    way: Way
    prompts: tuple[Prompt, ...]
    is_incremental_first: bool


@dataclass(frozen=True, slots=True)
class Pair:
    """The same prompts, answered both ways."""

    speculative: Answers
    incremental: Answers

    @property
    def speed_up(self) -> float:
        """How many times faster a token came with speculation."""
        slower = self.incremental.tokens_per_s
        return self.speculative.tokens_per_s / slower if slower > 0 else 1.0

    @property
    def is_identical(self) -> bool:
        """Whether all tokens are the same."""
        return all(
            one.token_ids == other.token_ids
            for one, other in zip(self.speculative.completions, self.incremental.completions, strict=True)
        )


def ways_with(ssms: Sequence[str]) -> tuple[Way, ...]:
    """All together first, then each alone."""
    alone = tuple(Way((ssm,)) for ssm in ssms)
    return alone if len(ssms) < 2 else (Way(tuple(ssms)), *alone)


def planned_rounds(
    prompts: Sequence[Prompt], ways: Sequence[Way], num_at_once: int, max_num_rounds: int
) -> tuple[tuple[Turn, ...], ...]:
    """As many rounds as there are prompts for. Raises ``ValueError`` where there is none."""
    num_of_round = num_at_once * len(ways)
    if len(prompts) < num_of_round:
        raise ValueError(
            f"{len(ways)} ways with {num_at_once} prompts at once take {num_of_round} prompts at least, and there are {len(prompts)}: "
            "each is answered with speculation once, because SSMs may remember an output"
        )
    rounds = []
    for number in range(min(max_num_rounds, len(prompts) // num_of_round)):
        starts = range(number * num_of_round, (number + 1) * num_of_round, num_at_once)
        turns = [
            Turn(
                ways[(place + number) % len(ways)],
                tuple(prompts[start : start + num_at_once]),
                is_incremental_first=number % 2 == 1,
            )
            for place, start in enumerate(starts)
        ]
        rounds.append(tuple(turns))
    return tuple(rounds)


def plan_told(rounds: Sequence[Sequence[Turn]], num_prompts: int, num_rounds_needed: int) -> str:
    """In a line: how many prompts make how many rounds, how many are left out, and how many a recommendation would take."""
    num_of_round = sum(len(turn.prompts) for turn in rounds[0])
    num_left_out = num_prompts - len(rounds) * num_of_round
    told = f"{num_prompts} prompts: {len(rounds)} {'round' if len(rounds) == 1 else 'rounds'} of {num_of_round}"
    if num_left_out >= num_of_round:
        told += f", as many as --rounds allows; the last {num_left_out} are left out"
    elif num_left_out:
        told += f"; the last {num_left_out} {'is' if num_left_out == 1 else 'are'} left out"
    if len(rounds) < num_rounds_needed:
        told += f"; a recommendation takes {num_rounds_needed} rounds, {num_rounds_needed * num_of_round} prompts"
    return told


def measured(
    client: Client, rounds: Sequence[Sequence[Turn]], params: GenerateParams, say: Callable[[str], None]
) -> dict[Way, list[Pair]]:
    """The pairs of each way. ``say`` is told what goes on. Raises ``SpecGroveError``."""
    pairs: dict[Way, list[Pair]] = {turn.way: [] for turn in rounds[0]}
    say("warming up")
    for way in pairs:
        _warm_up(client, params, SpeculationOptions(ssms=way.ssms))
    _warm_up(client, params, _INCREMENTAL)
    for number, turns in enumerate(rounds, start=1):
        for turn in turns:
            say(f"round {number} of {len(rounds)}: {turn.way.name}")
            pairs[turn.way].append(_taken(client, turn, params))
    return pairs


def _warm_up(client: Client, params: GenerateParams, options: SpeculationOptions) -> None:
    client.complete(_WARM_UP, **(params | {"max_tokens": _NUM_WARM_UP_TOKENS, "speculation": options}))


def _taken(client: Client, turn: Turn, params: GenerateParams) -> Pair:
    def answers(options: SpeculationOptions) -> Answers:
        return answer_all(client, turn.prompts, params | {"speculation": options}, len(turn.prompts))

    if turn.is_incremental_first:
        incremental = answers(_INCREMENTAL)
        return Pair(answers(SpeculationOptions(ssms=turn.way.ssms)), incremental)
    return Pair(answers(SpeculationOptions(ssms=turn.way.ssms)), answers(_INCREMENTAL))
