"""A large model and a small one of its family over gRPC: tokens per step, tokens per second with the SSM and without.

    python -m benchmarks.pair --llm big.gguf --ssm small.gguf --precisions bfloat16 int8 --rounds 3

Starts the real services once for each precision, which holds for both models. In every round each prompt is answered speculatively and
incrementally in turn, greedily, one request at a time. Exits with 1 where the two outputs differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.host import ON_CPU, conditions
from specgrove.client import Client
from specgrove.client.output import Completion
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.suite.processes import Suite, SuiteConfig

CODE_PROMPTS = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "Write a C++ function that reverses a singly linked list in place.",
    "Write a Rust function that counts how often each word occurs in a text.",
    "Write a SQL query that lists the ten customers with the highest total of orders in 2023.",
    "Write a JavaScript function debounce(fn, delay_ms) and explain it in one sentence.",
)


def suite_config(llm: Path, ssm: str, precision: str, cache_dir: Path) -> SuiteConfig:
    """Both models in ``precision``; the SSM through its option, as a user would ask for it."""
    if precision not in ("int8", "int4"):
        return SuiteConfig(llm_folder=llm, ssms=(ssm,), dtype=precision, llm_arguments=ON_CPU, ssm_arguments=ON_CPU)
    folder = ensure_quantized(llm, precision, cache_dir, print)
    ssms = (f"{ssm},quantization={precision}",)
    return SuiteConfig(llm_folder=folder, ssms=ssms, llm_arguments=ON_CPU, ssm_arguments=ON_CPU, start_timeout_s=900.0)


def measure(client: Client, arguments: argparse.Namespace, precision: str) -> bool:
    """Prints a row; False where an output is not the incremental one."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    num_tokens = num_steps = num_equal = 0
    for _ in range(arguments.rounds + 1):  # the first is not counted: it warms up
        answers: dict[bool, list[Completion]] = {True: [], False: []}
        seconds = {True: 0.0, False: 0.0}
        for prompt in CODE_PROMPTS:
            for speculates in (True, False):
                messages = [{"role": "user", "content": prompt}]
                options = SpeculationOptions(disabled=not speculates)
                started_s = time.perf_counter()
                completion = client.complete(messages, max_tokens=arguments.max_tokens, speculation=options)
                seconds[speculates] += time.perf_counter() - started_s
                answers[speculates].append(completion)
        for speculates, completions in answers.items():
            num_out = sum(completion.usage.num_output_tokens for completion in completions)
            rates[speculates].append(num_out / seconds[speculates])
        num_tokens += sum(completion.usage.num_output_tokens for completion in answers[True])
        num_steps += sum(completion.usage.num_verify_steps for completion in answers[True])
        num_equal += sum(a.token_ids == b.token_ids for a, b in zip(answers[True], answers[False], strict=True))
    num_outputs = len(CODE_PROMPTS) * (arguments.rounds + 1)
    speculative, incremental = (statistics.median(rates[speculates][1:]) for speculates in (True, False))
    print(
        f"{precision}: {num_tokens / num_steps:.2f} tokens per step, {speculative:.1f} tokens/s "
        f"({min(rates[True][1:]):.1f} to {max(rates[True][1:]):.1f}) with the SSM, {incremental:.1f} "
        f"({min(rates[False][1:]):.1f} to {max(rates[False][1:]):.1f}) without, {speculative / incremental:.2f} x; "
        f"{num_equal} of {num_outputs} outputs equal",
        flush=True,
    )
    return bool(num_equal == num_outputs)


def main() -> int:
    """0 when every speculative output was the incremental one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pair", description=__doc__.splitlines()[0])
    parser.add_argument("--llm", required=True)
    parser.add_argument("--ssm", required=True, help="as for `specgrove serve`, without a quantization")
    choices = ("float32", "bfloat16", "int8", "int4")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "int8"], choices=choices)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    llm = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    all_equal = True
    for precision in arguments.precisions:
        config = suite_config(llm, arguments.ssm, precision, arguments.cache_dir)
        with Suite(config) as suite, Client(suite.address) as client:
            all_equal &= measure(client, arguments, precision)
    print(", ".join(conditions().values()))
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
