"""A trace of acceptance: how many tokens of each tree a real model accepted. Recorded once, and replayed by models of random weights.

``python -m benchmarks.gpu --record-trace FILE`` records one from the demo model and the default drafters; ``acceptance_trace.json`` is what
it wrote, and the replayed LLM service reads it. It holds numbers only, no text.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.progress import track

from specgrove.client.output import Chunk
from specgrove.loop.request import SpeculationOptions

TRACE = Path(__file__).parent / "acceptance_trace.json"
_STRIDE = 389  # a prime
_NUM_NODES, _DEPTH = 16, 5
TREE = SpeculationOptions(max_num_nodes=_NUM_NODES, max_depth=_DEPTH)


@dataclass(frozen=True, slots=True)
class Trace:
    """``accepted`` are the drafted tokens that a verification accepted, one number per tree, prompt after prompt."""

    how: str
    max_num_nodes: int
    max_depth: int
    accepted: tuple[int, ...]

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Raises ``ValueError`` for a trace without numbers."""
        content = json.loads(path.read_text())
        trace = cls(**(content | {"accepted": tuple(content["accepted"])}))
        if not trace.accepted or min(trace.accepted) < 0:
            raise ValueError(f"{path} holds no trace: numbers of accepted tokens are 0 or more")
        return trace

    def write(self, path: Path) -> None:
        """A line for each field."""
        fields = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in asdict(self).items())
        path.write_text("{\n" + ",\n".join(fields) + "\n}\n")

    def number(self, place: int) -> int:
        """One number after the other, from all over the trace: a short replay has about the mean of all."""
        return self.accepted[place * _STRIDE % len(self.accepted)]

    @property
    def tokens_per_step(self) -> float:
        """The bonus token counted."""
        return statistics.mean(self.accepted) + 1


def accepted_of(chunks: Sequence[Chunk]) -> list[int]:
    """Of one output: a chunk is what one verification decided. The first has no tree, and the last may be cut short."""
    return [len(chunk.tokens) - 1 for chunk in chunks[1:-1]]


def record(path: Path, cache_dir: Path, num_prompts: int = 30, max_tokens: int = 128) -> Trace:
    """Runs the demo model through the real services, one request at a time, greedily."""
    from benchmarks.host import ON_CPU, conditions
    from benchmarks.prompts import SHARED_PROMPTS, load_prompts
    from specgrove.client import Client
    from specgrove.config import DEFAULT_SSMS
    from specgrove.models.folders.hub import DEMO_LLM, resolve_model
    from specgrove.suite.processes import Suite, SuiteConfig

    folder = resolve_model(DEMO_LLM, cache_dir=cache_dir, progress=print)
    accepted: list[int] = []
    with (
        Suite(SuiteConfig(folder, llm_arguments=ON_CPU, ssm_arguments=ON_CPU)) as suite,
        Client(suite.address) as client,
    ):
        for prompt in track(load_prompts(num_prompts), "prompts", transient=True):
            chunks = list(client.generate([("user", prompt)], max_tokens=max_tokens, temperature=0.0, speculation=TREE))
            usage = chunks[-1].usage
            if usage is None or usage.num_verify_steps != len(chunks):
                raise RuntimeError("the router has put several verifications into a chunk: nothing can be told of each")
            accepted += accepted_of(chunks)
    source = "prompts of the four prompt sets in turn" if SHARED_PROMPTS.exists() else "made-up prompts"
    how = (
        f"python -m benchmarks.gpu --record-trace, {conditions()['commit']}: {DEMO_LLM} in bfloat16 on a CPU, drafted by "
        f"{', '.join(DEFAULT_SSMS)}, trees of {_NUM_NODES} nodes, depth {_DEPTH}; {num_prompts} {source}, up to "
        f"{max_tokens} tokens, greedy; without each output's first and last step"
    )
    trace = Trace(how, _NUM_NODES, _DEPTH, tuple(accepted))
    trace.write(path)
    return trace
