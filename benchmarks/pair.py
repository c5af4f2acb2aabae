"""A large model and a small one of its family over gRPC: tokens per step, tokens per second with the SSM and without, and where time goes.

    python -m benchmarks.pair --llm big.gguf --ssm small.gguf --precisions bfloat16 int8 --ssm-precision int4 --rounds 3

Starts the real services once for each precision of the LLM. In every round each prompt for code is answered speculatively and
incrementally in turn, greedily, one request at a time. Exits with 1 where the two outputs differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.host import ON_CPU, conditions
from benchmarks.prompts import code_prompts
from specgrove.client import Client
from specgrove.client.output import Completion, tokens_per_step
from specgrove.loop.request import SpeculationOptions
from specgrove.machine.folders import default_cache_dir
from specgrove.models.folders.hub import resolve_model
from specgrove.models.folders.quantized_cache import ensure_quantized
from specgrove.suite.processes import Suite, SuiteConfig


def suite_config(llm: Path, ssm: str, precision: str, ssm_precision: str, cache_dir: Path) -> SuiteConfig:
    """The SSM through its option, as a user would ask for it. Quantised models compute in bfloat16."""
    dtype = precision if precision not in ("int8", "int4") else "bfloat16"
    folder = ensure_quantized(llm, "none" if dtype == precision else precision, cache_dir, print)
    ssms = (f"{ssm},quantization={ssm_precision}",) if ssm_precision in ("int8", "int4") else (ssm,)
    return SuiteConfig(
        llm_folder=folder, ssms=ssms, dtype=dtype, llm_arguments=ON_CPU, ssm_arguments=ON_CPU, start_timeout_s=900.0
    )


def measure(client: Client, prompts: list[str], arguments: argparse.Namespace, name: str) -> bool:
    """Prints a row; False where an output is not the incremental one."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    speculative: list[Completion] = []
    num_equal = 0
    for _ in range(arguments.rounds + 1):  # the first is not counted: it warms up
        answers: dict[bool, list[Completion]] = {True: [], False: []}
        seconds = {True: 0.0, False: 0.0}
        for prompt in prompts:
            for speculates in (True, False):
                messages = [{"role": "user", "content": prompt}]
                options = SpeculationOptions(disabled=not speculates)
                started_s = time.perf_counter()
                completion = client.complete(
                    messages, max_tokens=arguments.max_tokens, speculation=options, cache_salt=str(speculates)
                )
                seconds[speculates] += time.perf_counter() - started_s
                answers[speculates].append(completion)
        for speculates, completions in answers.items():
            num_out = sum(completion.usage.num_output_tokens for completion in completions)
            rates[speculates].append(num_out / seconds[speculates])
        speculative += answers[True]
        num_equal += sum(a.token_ids == b.token_ids for a, b in zip(answers[True], answers[False], strict=True))
    num_outputs = len(prompts) * (arguments.rounds + 1)
    rate, plain_rate = (statistics.median(rates[speculates][1:]) for speculates in (True, False))
    print(
        f"{name}: {tokens_per_step([completion.usage for completion in speculative]):.2f} tokens per step, {rate:.1f} tokens/s "
        f"({min(rates[True][1:]):.1f} to {max(rates[True][1:]):.1f}) with the SSM, {plain_rate:.1f} "
        f"({min(rates[False][1:]):.1f} to {max(rates[False][1:]):.1f}) without, {rate / plain_rate:.2f} x; "
        f"{num_equal} of {num_outputs} outputs equal",
        flush=True,
    )
    print(f"  a step of it: {_step_parts(speculative)}; without: {_step_parts(answers[False])}", flush=True)
    return bool(num_equal == num_outputs)


def _step_parts(completions: list[Completion]) -> str:
    """Milliseconds of one step after the first: waiting for drafts, for the LLM's service, and all else."""
    usages = [completion.usage for completion in completions]
    num_steps = max(sum(usage.num_verify_steps - 1 for usage in usages), 1)
    decode_ms, draft_ms = (
        sum(getattr(usage, name) for usage in usages) / num_steps for name in ("decode_ms", "draft_ms")
    )
    # The first step, which reads the prompt, is in the sum of verifications too.
    verify_ms = sum(max(usage.verify_ms - usage.first_token_ms, 0.0) for usage in usages) / num_steps
    nodes = sum(usage.num_drafted_nodes for usage in usages) / num_steps
    return f"{decode_ms:.1f} ms, of which {draft_ms:.1f} drafting and {verify_ms:.1f} verifying, {nodes:.1f} nodes"


def main() -> int:
    """0 when every speculative output was the incremental one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pair", description=__doc__.splitlines()[0])
    parser.add_argument("--llm", required=True)
    parser.add_argument("--ssm", required=True, help="as for `specgrove serve`, without a quantization")
    choices = ("float32", "bfloat16", "int8", "int4")
    parser.add_argument("--precisions", nargs="+", default=["bfloat16", "int8"], choices=choices)
    parser.add_argument("--ssm-precision", choices=choices[1:], help="default: as the LLM")
    parser.add_argument(
        "--num-prompts", type=int, default=12, help="of our own for code: completions, edits and explanations in turn"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--cache-dir", type=Path, default=default_cache_dir())
    arguments = parser.parse_args()
    llm = resolve_model(arguments.llm, cache_dir=arguments.cache_dir, progress=print)
    prompts = code_prompts()[: arguments.num_prompts]
    all_equal = True
    for precision in arguments.precisions:
        ssm_precision = arguments.ssm_precision or precision
        config = suite_config(llm, arguments.ssm, precision, ssm_precision, arguments.cache_dir)
        with Suite(config) as suite, Client(suite.address) as client:
            all_equal &= measure(client, prompts, arguments, f"{precision}, SSM {ssm_precision}")
    print(", ".join(conditions().values()))
    return 0 if all_equal else 1


if __name__ == "__main__":
    sys.exit(main())
