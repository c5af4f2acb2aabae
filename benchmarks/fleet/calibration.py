"""Measured times of a suite, as far as requests tell them that come alone or together. Used by ``benchmarks.load``.

Requests are without trees. Of what happens in the service alone its own clock tells (``Usage.verify_ms``); the rest is told by when tokens
come. What is left over is the cost of what lies between, with the processors that the services and the client share.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from benchmarks.fleet.shape import FleetShape
from benchmarks.fleet.simulation import Simulation
from benchmarks.fleet.times import Rows, Times, rising
from benchmarks.fleet.workload import Arrival, Served
from specgrove.client.output import Usage

SHORT, LONG = 0, 1
"""Places of the two prompts that are used here, before those of a workload."""
SHORT_LEN, LONG_LEN = 32, 800  # tokens
_OUTPUT_LEN = 60
_NUMS_AT_ONCE = (1, 2, 4, 8)
_PROMPT_LENS = (8, 32, 128, 256)  # each is read in one pass
_NUM_TIMES = 3  # each is measured; medians count

Ask = Callable[[list[Arrival]], Awaitable[tuple[list[Served], list[Usage]]]]
"""Sends requests without trees, each at its time, and waits for all. No prefix is kept from one to the next."""


async def times_by_requests(bare: Times, ask: Ask, router_s: Callable[[], float]) -> Times:
    """``bare``, and what requests tell. ``router_s`` gives the router's processor time so far."""
    before_s, steps, num_verdicts = router_s(), list[tuple[int, float]](), 0
    for num_at_once in _NUMS_AT_ONCE:
        decoded = await _decode(ask, SHORT, SHORT_LEN, num_at_once)
        steps.append((num_at_once, decoded.step_ms))
        num_verdicts += decoded.num_verdicts
    decoding_s, before_s = router_s() - before_s, router_s()
    prompts = [(length, await _first_token(ask, length)) for length in _PROMPT_LENS]
    # A request of one token has one verdict.
    one_ms = (router_s() - before_s) * 1e3 / (len(prompts) * _NUM_TIMES)
    num_requests = sum(_NUMS_AT_ONCE) * _NUM_TIMES
    verdict_ms = max(0.0, (decoding_s * 1e3 - num_requests * one_ms) / (num_verdicts - num_requests))
    long = await _decode(ask, LONG, LONG_LEN, 1)
    context_ms = max(0.0, (long.step_ms - steps[0][1]) / (LONG_LEN - SHORT_LEN) * 1e3)
    times = replace(bare, context_ms=context_ms, verdict_ms=verdict_ms, request_ms=max(0.0, one_ms - verdict_ms))
    num_seen = SHORT_LEN + _OUTPUT_LEN // 2
    of_model = {num: ms - num * num_seen * context_ms / 1e3 for num, ms in steps}
    # The service measures passes at its start, among others that start, and not all where time is short. None takes longer than a step
    # with it.
    points = dict(bare.pass_ms)
    points |= {num: min(ms, points.get(num, ms)) for num, ms in of_model.items()}
    times = replace(times, pass_ms=rising(points.items()))
    overhead_ms = rising((num, max(0.0, ms - times.pass_of(Rows(num)))) for num, ms in of_model.items())
    prompt_ms = rising((length, first.pass_ms) for length, first in prompts)
    rest_ms = statistics.median(first.token_ms - first.pass_ms for _, first in prompts)
    client_ms = max(0.0, rest_ms - overhead_ms[0][1] - 2 * times.hop_ms - one_ms)
    times = replace(times, overhead_ms=overhead_ms, prompt_ms=prompt_ms, client_ms=client_ms)
    return replace(times, prompt_context_ms=await _prompt_context_ms(ask, times))


async def _prompt_context_ms(ask: Ask, times: Times) -> float:
    """From a long prompt, which is read in chunks: what is not explained by their rows."""
    found = await _first_token(ask, LONG_LEN)
    [served] = Simulation(FleetShape(), times).run([Arrival(0.0, LONG_LEN, 1, LONG)])
    chunk = FleetShape().max_num_chunk_tokens
    num_seen = sum(min(chunk, LONG_LEN - start) * start for start in range(0, LONG_LEN, chunk))
    return max(0.0, (found.token_ms - served.first_token_s * 1e3) / num_seen * 1e3)


@dataclass(frozen=True, slots=True)
class _FirstToken:
    """Medians of a prompt that comes alone: when its first token comes, and what the pass that gives it takes."""

    token_ms: float
    pass_ms: float


async def _first_token(ask: Ask, length: int) -> _FirstToken:
    tokens_ms, passes_ms = [], []
    for _ in range(_NUM_TIMES):
        [served], [usage] = await ask([Arrival(0.0, length, 1, LONG)])
        tokens_ms.append(served.first_token_s * 1e3)
        passes_ms.append(usage.verify_ms)
    return _FirstToken(statistics.median(tokens_ms), statistics.median(passes_ms))


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Outputs at once: what a step of all takes, the median; and the messages that all had."""

    step_ms: float
    num_verdicts: int


async def _decode(ask: Ask, prompt: int, length: int, num_at_once: int) -> _Decoded:
    steps_ms, num_verdicts = [], 0
    for _ in range(_NUM_TIMES):
        served, _ = await ask([Arrival(0.0, length, _OUTPUT_LEN, prompt)] * num_at_once)
        steps_ms.append(step_ms(served))
        num_verdicts += sum(len(set(each.token_times_s)) for each in served)
    return _Decoded(statistics.median(steps_ms), num_verdicts)


def step_ms(served: Sequence[Served]) -> float:
    """Of a step while all these decode, the median of the outputs.

    Tokens of several steps may come together, with the last one's: a gap between two tokens says nothing.

    Raises ``ValueError`` where they did not decode at the same time.
    """
    starts_s = max(each.token_times_s[0] for each in served)
    ends_s = min(each.token_times_s[-1] for each in served)
    found = []
    for each in served:
        times_s = [time_s for time_s in each.token_times_s if starts_s <= time_s <= ends_s]
        num_steps = sum(time_s > times_s[0] for time_s in times_s) if times_s else 0
        if num_steps == 0:
            raise ValueError(f"{len(served)} requests did not decode at the same time; is the machine busy otherwise?")
        found.append((times_s[-1] - times_s[0]) / num_steps)
    return statistics.median(found) * 1e3
