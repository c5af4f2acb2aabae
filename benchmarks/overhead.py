"""What a decoding step costs beside the LLM's forward pass: router, gRPC, Python on both sides, one request at a time.

    python -m benchmarks.overhead --rounds 20

The router's clock around a step (``decode_ms``), less what the LLM service measures of its forward pass (``verify_ms``), per step. Each
round decodes the same prompt to two lengths and takes the difference, so that the prompt and the first token drop out. Printed are medians;
the same for a small tree that is always drafted shows what drafting over gRPC adds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.host import ON_CPU
from benchmarks.prompts import load_prompts
from specgrove.client import Client
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import DEMO_LLM, resolve_model
from specgrove.suite.processes import Suite, SuiteConfig

_LENGTHS = (8, 72)
MODES = {
    "incremental": SpeculationOptions(disabled=True),
    "speculative": SpeculationOptions(ssms=("demo",), max_num_nodes=4, max_depth=2),
}


def step_costs_ms(client: Client, prompt: str, speculation: SpeculationOptions) -> tuple[float, float, float]:
    """Of one step, in ms: all of it, the forward pass, drafting."""
    found = []
    for max_tokens in _LENGTHS:
        usage = client.complete(
            [("user", prompt)], max_tokens=max_tokens, ignore_eos=True, speculation=speculation
        ).usage
        found.append((usage.num_verify_steps, usage.decode_ms, usage.verify_ms, usage.draft_ms))
    num_steps, *times_ms = (long - short for short, long in zip(*found, strict=True))
    step_ms, verify_ms, draft_ms = (time_ms / num_steps for time_ms in times_ms)
    return step_ms, verify_ms, draft_ms


def main() -> int:
    """Prints a line per mode."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--llm", default=DEMO_LLM)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    folder = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    config = SuiteConfig(llm_folder=folder, dtype=arguments.dtype, llm_arguments=ON_CPU, ssm_arguments=ON_CPU)
    costs: dict[str, list[tuple[float, float, float]]] = {mode: [] for mode in MODES}
    with Suite(config) as suite, Client(suite.address) as client:
        for number, prompt in enumerate(load_prompts(arguments.rounds + 1)):
            for mode, speculation in MODES.items():
                cost = step_costs_ms(client, prompt, speculation)
                if number:  # the first warms up
                    costs[mode].append(cost)
    for mode, rounds in costs.items():
        step_ms, verify_ms, draft_ms = (statistics.median(values) for values in zip(*rounds, strict=True))
        rest_ms = statistics.median(step - verify - draft for step, verify, draft in rounds)
        print(
            f"{mode}: {step_ms:.2f} ms a step: forward {verify_ms:.2f}, drafting {draft_ms:.2f}, the rest {rest_ms:.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
