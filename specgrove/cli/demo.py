"""``specgrove demo``: one answer with the drafted tokens in colour, the same answer decoded incrementally, and both side by side.

Both ways are measured by turns, several times: a machine that others use too changes from second to second.
"""

from __future__ import annotations

import argparse
import socket
import statistics

import rich.console

from specgrove.cli.rendering import comparison_table, legend, make_console
from specgrove.cli.streaming import streamed
from specgrove.cli.suites import started_suite, waiting
from specgrove.client import Client
from specgrove.client_wire import GenerateParams, completion_of
from specgrove.output import Completion, Usage
from specgrove.request import SpeculationOptions

_QUESTION = "What is gravity? Explain it to a curious child, then list three things that gravity does."
_NUM_TURNS = 3
# Within this of 1 the two ways are equally fast.
_NOISE = 0.03
_NEXT = """Next:
  .venv/bin/specgrove chat                          talk with it
  .venv/bin/specgrove serve                         serve it over gRPC at 127.0.0.1:50051
  .venv/bin/specgrove serve --llm MODEL --ssm SMALL a folder, hub id or .gguf file, and a small one with its tokenizer"""


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when both ways of decoding gave the same tokens."""
    console = make_console()
    question = arguments.question or _QUESTION
    messages = [("user", question)]
    params = GenerateParams(max_tokens=arguments.max_tokens)
    incrementally = GenerateParams(max_tokens=arguments.max_tokens, speculation=SpeculationOptions(disabled=True))
    with started_suite(arguments, address=f"127.0.0.1:{_free_port()}") as suite, Client(suite.address) as client:
        info = client.model_info()
        ssms = ", ".join(info.ssms) or "none"
        console.print(f"{info.model} ({info.dtype}), SSMs: {ssms}; router at {suite.address}", soft_wrap=True)
        console.print(legend())
        console.print(f"\n> {question}\n", style="dim", markup=False, soft_wrap=True)
        speculative = [completion_of(list(streamed(client, console, messages, params)))]
        incremental = []
        for turn in range(_NUM_TURNS):
            with waiting(console, f"the same again, without and with speculation ({turn + 1} of {_NUM_TURNS})"):
                incremental.append(client.complete(messages, **incrementally))
                speculative.append(client.complete(messages, **params))
    # The first one found the services cold.
    return _compare(console, speculative[1:], incremental)


def _compare(console: rich.console.Console, speculative: list[Completion], incremental: list[Completion]) -> int:
    pairs = list(zip(speculative, incremental, strict=True))
    speed_ups = [_ratio(one.usage, other.usage) for one, other in pairs]
    speed_up = statistics.median(speed_ups)
    shown, other = pairs[speed_ups.index(statistics.median_low(speed_ups))]
    is_identical = len({completion.token_ids for completion in (*speculative, *incremental)}) == 1
    console.print(comparison_table(shown.usage, other.usage))
    console.print(
        f"speed-up: [bold]{speed_up:.2f}x[/bold], median of {len(pairs)} turns; {_reason(speed_up, shown.usage)}"
    )
    console.print(f"identical output: [bold]{'yes' if is_identical else 'NO'}[/bold]")
    console.print(f"\n{_NEXT}", style="dim", markup=False)
    return 0 if is_identical else 1


def _ratio(speculative: Usage, incremental: Usage) -> float:
    return speculative.tokens_per_s / incremental.tokens_per_s if incremental.tokens_per_s > 0 else 1.0


def _reason(speed_up: float, usage: Usage) -> str:
    """What was found, in words."""
    found = f"a step of the LLM gave {usage.mean_acceptance_len:.2f} tokens"
    if speed_up > 1 + _NOISE:
        return f"{found} instead of 1"
    if usage.num_drafted_nodes == 0:
        return "here drafting does not pay, so the router left it off"
    return f"{found}, but rows of a tree are dear on this machine, so the router drafted little"


def _free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
