"""Requests at once that are long enough for something to happen to a service meanwhile."""

from __future__ import annotations

import asyncio

from specgrove.client import AsyncClient
from specgrove.client.output import Completion
from specgrove.loop.request import SpeculationOptions


async def stories(address: str, num_stories: int, max_tokens: int) -> list[Completion]:
    """Sampled, drafted for by ``lookup``; the same each time."""
    async with AsyncClient(address) as client:
        requests = [
            client.complete(
                f"Write a short story about a town with {number} bridges.", max_tokens=max_tokens, temperature=1.0, seed=7,
                ignore_eos=True, speculation=SpeculationOptions(ssms=("lookup",), max_num_nodes=4, max_depth=3),
            )
            for number in range(num_stories)
        ]  # fmt: skip
        return list(await asyncio.gather(*requests))
