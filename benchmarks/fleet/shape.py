"""What is simulated: how many services there are, what an LLM replica takes, and what trees are like. Read by all parts of a simulation.

Defaults are those of the real services' settings.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from specgrove.loop.works import MAX_NUM_STEPS_AHEAD

ENDLESS = 1 << 30


@dataclass(frozen=True, slots=True)
class Speculation:
    """What trees are like, as measured: nodes and levels of one, and how many tokens a step gives, the bonus token counted."""

    num_nodes: int
    num_levels: int
    tokens_per_step: float
    rows_per_level: int = 3

    def __post_init__(self) -> None:
        if self.num_nodes < 1 or self.num_levels < 1 or self.rows_per_level < 1:
            raise ValueError("a tree has a node and a level at least")
        if not 1 <= self.tokens_per_step <= self.num_levels + 1:
            raise ValueError(
                f"a step of {self.num_levels} levels gives 1 to {self.num_levels + 1} tokens, got {self.tokens_per_step:g}"
            )

    def num_tokens(self, rng: random.Random) -> int:
        """Of one step: so many whole ones, and one more as often as makes the mean."""
        whole = int(self.tokens_per_step)
        return whole + (rng.random() < self.tokens_per_step - whole)


@dataclass(frozen=True, slots=True)
class FleetShape:
    """How many of each there are, and what an LLM replica takes."""

    num_routers: int = 1
    num_llms: int = 1
    num_ssms: int = 1
    num_slots: int = ENDLESS
    """KV slots of an LLM replica: a session takes as many as its prompt and output have tokens, and waits for them."""
    max_num_chunk_tokens: int = 256
    max_num_tree_rows: int = 512
    stream_interval_ms: float = 20.0
    """Least time between two verdicts of steps that an LLM replica makes by itself; tokens in between go out together."""
    max_num_steps_ahead: int = MAX_NUM_STEPS_AHEAD
    """Steps without trees after which a router is waited for."""
    has_passes_ahead: bool = False
    """Whether an LLM replica begins a pass before the one before it has ended, where both are of the same sessions: on GPUs."""

    def __post_init__(self) -> None:
        if min(self.num_routers, self.num_llms, self.num_ssms) < 1:
            raise ValueError("there must be a router, an LLM replica and an SSM replica at least")
