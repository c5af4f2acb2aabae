"""Sends the requests of a load to one server and notes when their tokens come, whatever the server speaks. Used by all ways of a load."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from benchmarks.fleet.calibration import LONG_LEN, SHORT_LEN
from benchmarks.fleet.workload import Arrival, Served

_STRIDE = 97  # from one prompt's place in the text to the next one's


class AskingError(RuntimeError):
    """A server can't be asked, or does not do what it was asked for; the text says why."""


class Asking(ABC):
    """One server, and one way to ask it. All times from ``start``."""

    name: str
    """As in the table."""
    is_ours: bool
    served: Sequence[Served] = ()
    """What became of the last requests that came at their times."""

    def __init__(self, prompts: Sequence[list[int]]) -> None:
        self._prompts = prompts
        self.start()

    def start(self) -> None:
        """Sets the clock to 0."""
        self._started_s = time.perf_counter()

    @abstractmethod
    async def _token_times_s(self, prompt: list[int], num_tokens: int, salt: str) -> list[float]:
        """Sends one greedy request, whose output ends at its length; a time for each token. Requests with the same salt share prefixes."""

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Within it the server is asked. What a server must do to be idle outside of it is its own."""
        yield

    async def ask(self, arrival: Arrival, prefix: tuple[int, ...] = ()) -> Served:
        """One request, at its time. Only a shared prefix is kept from one to the next. A longer prompt is cut off.

        Raises ``AskingError`` where the output has not the length that was asked for: its figures would not be comparable.
        """
        await asyncio.sleep(max(0.0, arrival.at_s - self._now_s()))
        prompt = [*prefix, *self._prompts[arrival.prompt][: arrival.prompt_len]]
        salt = "shared" if prefix else uuid.uuid4().hex
        times_s = await self._token_times_s(prompt, arrival.output_len, salt)
        if len(times_s) != arrival.output_len:
            raise AskingError(f"{self.name} put out {len(times_s)} tokens, and was asked for {arrival.output_len}")
        return Served(arrival, tuple(times_s))

    async def open_loop(self, arrivals: Sequence[Arrival], prefix: tuple[int, ...] = ()) -> list[Served]:
        """Each at its time, whatever became of the others."""
        self.start()
        self.served = found = list(await asyncio.gather(*(self.ask(arrival, prefix) for arrival in arrivals)))
        return found

    async def closed_loop(
        self, arrivals: Sequence[Arrival], num_clients: int, prefix: tuple[int, ...] = ()
    ) -> list[Served]:
        """So many clients share the requests; the times of arrival don't count."""
        self.start()
        left = iter(arrivals)

        async def ask_on() -> list[Served]:
            found = []
            for arrival in left:
                now = Arrival(self._now_s(), arrival.prompt_len, arrival.output_len, arrival.prompt)
                found.append(await self.ask(now, prefix))
            return found

        return [served for each in await asyncio.gather(*(ask_on() for _ in range(num_clients))) for served in each]

    def _now_s(self) -> float:
        return time.perf_counter() - self._started_s


def prompts_of(long: list[int], lengths: Sequence[int]) -> list[list[int]]:
    """Of these lengths, from different places; the two for calibration first. Raises ``ValueError`` where the text is too short."""
    found = []
    for number, length in enumerate((SHORT_LEN, LONG_LEN, *lengths)):
        if length > len(long):
            raise ValueError(f"there is text for prompts of {len(long)} tokens, not of {length}")
        start = number * _STRIDE % (len(long) - length + 1)
        found.append(long[start : start + length])
    return found
