"""How good SSMs are where they serve: tokens per verification over gRPC, by the rows of a verification, greedy and sampled.

    python -m benchmarks.drafting --ssm demo --ssm OTHER_FOLDER --rows 2 8 16 --temperatures 0 0.8 --num-prompts 60

``--merged`` tells what a pool gains on the best of its SSMs at the same number of rows.

Starts the real services once per precision, with trees of a fixed size, and asks the same prompts of each SSM. The figures hardly depend
on the machine's speed: a verification of 2 rows tells how often the first choice is right. A request's first step, which reads the prompt
and drafts nothing, is left out. Times are means per step, of so many requests at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.host import conditions
from benchmarks.prompts import SHARED_PROMPTS, load_prompts
from benchmarks.serving import suite_config
from specgrove.client import AsyncClient
from specgrove.client.output import Usage
from specgrove.config import DEFAULT_SSMS_ON_CPU
from specgrove.files.prompt_files import read_prompt_set
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.settings.ssm_specs import parse_ssms
from specgrove.suite.processes import Suite

_ALPACA = SHARED_PROMPTS / "alpaca.json"
_SEED = 1
_SHOWN_DEPTHS = 4


@dataclass(frozen=True, slots=True)
class Way:
    """Who drafts, how much, and how the LLM samples."""

    precision: str
    ssms: tuple[str, ...]
    """Whose trees are merged."""
    num_rows: int
    """Of a verification: the tree's nodes and the last committed token."""
    temperature: float


@dataclass(frozen=True, slots=True)
class Drafting:
    """Of all steps of a way that could draft."""

    way: Way
    num_tokens: int
    num_steps: int
    num_nodes: int
    """Of all trees, as far as the LLM service verified them: where rows don't pay, it leaves some out."""
    right_by_depth: tuple[float, ...]
    """Of the steps that drafted a node so deep, the share that accepted one."""
    draft_ms: float
    verify_ms: float

    @property
    def tokens_per_verification(self) -> float:
        """With the bonus token."""
        return self.num_tokens / max(1, self.num_steps)

    def line(self) -> str:
        """For people."""
        way, num_nodes = self.way, self.num_nodes / max(1, self.num_steps)
        right = " ".join(f"{share:.2f}" for share in self.right_by_depth[:_SHOWN_DEPTHS])
        return (
            f"{way.precision} {' + '.join(way.ssms)} {way.num_rows:2} rows T {way.temperature:g}: "
            f"{self.tokens_per_verification:.2f} tokens per verification ({self.num_steps} steps of {num_nodes:.1f} nodes), accepted "
            f"by depth {right}; a step drafts {self.draft_ms:.1f} ms, verifies {self.verify_ms:.1f} ms"
        )


def drafting_of(way: Way, usages: Sequence[Usage]) -> Drafting:
    """Without each request's first step, which reads the prompt and gives one token."""
    num_steps = sum(usage.num_verify_steps - 1 for usage in usages)
    depth = max((len(usage.drafted_by_depth) for usage in usages), default=0)
    drafted, accepted = (
        [
            sum(counts[level] for usage in usages if len(counts := getattr(usage, name)) > level)
            for level in range(depth)
        ]
        for name in ("drafted_by_depth", "accepted_by_depth")
    )
    return Drafting(
        way=way,
        num_tokens=sum(usage.num_decoded_tokens for usage in usages),
        num_steps=num_steps,
        num_nodes=sum(usage.num_drafted_nodes for usage in usages),
        right_by_depth=tuple(right / max(1, asked) for right, asked in zip(accepted, drafted, strict=True)),
        draft_ms=sum(usage.draft_ms for usage in usages) / max(1, num_steps),
        verify_ms=sum(usage.verify_ms for usage in usages) / max(1, num_steps),
    )


async def measured(client: AsyncClient, way: Way, prompts: Sequence[str], max_tokens: int, at_once: int) -> Drafting:
    """All prompts, so many at once."""
    options = SpeculationOptions(ssms=way.ssms, max_num_nodes=way.num_rows - 1)
    places = asyncio.Semaphore(at_once)

    async def usage_of(prompt: str) -> Usage:
        async with places:
            completion = await client.complete(
                [("user", prompt)], max_tokens=max_tokens, temperature=way.temperature, seed=_SEED, speculation=options
            )
            return completion.usage

    return drafting_of(way, await asyncio.gather(*map(usage_of, prompts)))


def _prompts(path: Path, num_prompts: int) -> Sequence[str]:
    """Those of the file; where it is the usual one and missing, some of templates."""
    if path == _ALPACA and not path.exists():
        return load_prompts(num_prompts)
    return read_prompt_set(path, num_prompts).prompts


async def _run(arguments: argparse.Namespace, folder: Path, ssms: tuple[str, ...], precision: str) -> list[Drafting]:
    config = suite_config(folder, ssms, precision)
    limits = ("--tree-policy", "static", "--max-tree-nodes", str(max(arguments.rows) - 1))
    prompts = _prompts(arguments.prompts, arguments.num_prompts)
    names = [spec.name for spec in parse_ssms(ssms)]
    pools = [(name,) for name in names] + ([tuple(names)] if arguments.merged and len(names) > 1 else [])
    results = []
    with Suite(replace(config, router_arguments=limits)) as suite:
        async with AsyncClient(suite.address) as client:
            for temperature in arguments.temperatures:
                for num_rows in arguments.rows:
                    for pool in pools:
                        way = Way(precision, pool, num_rows, temperature)
                        found = await measured(client, way, prompts, arguments.max_tokens, arguments.at_once)
                        print(found.line(), flush=True)
                        results.append(found)
    return results


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drafting", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--llm", default=DEMO_LLM)
    add("--ssm", action="append", help="as for `specgrove serve`; repeatable: each by itself")
    add("--merged", action="store_true", help="all SSMs together, too, on trees of as many rows")
    add("--precisions", nargs="+", default=["bfloat16"], choices=("float32", "bfloat16", "int8", "int4"))
    add("--rows", type=int, nargs="+", default=[2, 8, 16], help="of a verification, the last committed token included")
    add("--temperatures", type=float, nargs="+", default=[0.0, 0.8])
    add("--prompts", type=Path, default=_ALPACA, help="a file (default: %(default)s)")
    add("--num-prompts", type=int, default=60)
    add("--max-tokens", type=int, default=100)
    add("--at-once", type=int, default=4, help="requests")
    add("--cache-dir", type=Path, default=default_cache_dir())
    add("--json", type=Path, help="write the figures here")
    return parser.parse_args()


def main() -> int:
    """Measures and prints."""
    arguments = parse_arguments()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    ssms = tuple(arguments.ssm or DEFAULT_SSMS_ON_CPU)
    results = [
        found for precision in arguments.precisions for found in asyncio.run(_run(arguments, folder, ssms, precision))
    ]
    facts = conditions()
    print(", ".join(facts.values()))
    if arguments.json:
        rows = [asdict(found) | {"tokens_per_verification": found.tokens_per_verification} for found in results]
        arguments.json.write_text(json.dumps({"conditions": facts, "rows": rows}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
