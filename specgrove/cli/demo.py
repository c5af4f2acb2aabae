"""``specgrove demo``: an answer with the drafted tokens in colour, then the same decoded incrementally, and both side by side.

Two more questions are answered in both ways, by turns: a machine that others use too changes from second to second.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import rich.console

from specgrove.cli.progress import waiting
from specgrove.cli.prompt_input import checked_prompt
from specgrove.cli.rendering import comparison_table, make_console, print_legend
from specgrove.cli.streaming import streamed
from specgrove.cli.suites import given_settings, started_suite
from specgrove.client import Client
from specgrove.client.answers import completion_of
from specgrove.client.output import Completion, Usage, tokens_per_s, tokens_per_step
from specgrove.client.wire import GenerateParams
from specgrove.loop.output import FinishReason
from specgrove.loop.request import SpeculationOptions

_QUESTION = "What is gravity? Explain it to a curious child, then list three things that gravity does."
# Each is asked with speculation once: asked again, an SSM would know the answer.
_OTHER_QUESTIONS = (
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "How do I make a good cup of coffee? Give me the steps.",
)
_WARM_UP = "Count to ten."
# Within this of 1 the two ways are equally fast.
_NOISE = 0.03
_MIN_MEASURED_TOKENS = 16
_NEXT = (
    ("chat", "talk with it"),
    ("serve --http-address 127.0.0.1:8000", "serve it over gRPC and HTTP"),
    ("serve --llm MODEL --ssm SMALL", "with your models"),
)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when both ways of decoding gave the same tokens."""
    console = make_console()
    question = checked_prompt(arguments.question or _QUESTION, "the question")
    params = GenerateParams(max_tokens=arguments.max_tokens)
    incrementally = GenerateParams(max_tokens=arguments.max_tokens, speculation=SpeculationOptions(disabled=True))
    pairs = []
    settings = given_settings(arguments)
    address = settings.given.get(("router", "address")) or f"127.0.0.1:{_free_port()}"
    with started_suite(settings, address, arguments, needs_chat=True) as suite, Client(suite.local_address) as client:
        info = client.model_info()
        ssms = ", ".join(info.ssms) or "none"
        console.print(f"{info.model} ({info.dtype}), SSMs: {ssms}; router at {suite.address}")
        with waiting(console, "warming up"):
            client.complete(_WARM_UP, max_tokens=16)
        print_legend(console, console)
        console.print(f"\n> {question}\n", style="dim", markup=False)
        shown = completion_of(list(streamed(client, console, [("user", question)], params)))
        if shown.finish_reason is FinishReason.LENGTH:
            console.print(
                f"[cut off here: the demo's answers have {arguments.max_tokens} tokens at most]",
                style="dim",
                markup=False,
            )
        with waiting(console, "the same without speculation, and two more questions in both ways"):
            pairs.append((shown, client.complete([("user", question)], **incrementally)))
            for other in _OTHER_QUESTIONS:
                messages = [("user", other)]
                incremental = client.complete(messages, **incrementally)
                pairs.append((client.complete(messages, **params), incremental))
    return _compare(console, pairs)


def _compare(console: rich.console.Console, pairs: list[tuple[Completion, Completion]]) -> int:
    speculative, incremental = ([pair[way].usage for pair in pairs] for way in (0, 1))
    speed_ups = sorted(_ratio([one], [other]) for one, other in zip(speculative, incremental, strict=True))
    is_identical = all(one.token_ids == other.token_ids for one, other in pairs)
    console.print()
    console.print(comparison_table(speculative, incremental))
    console.print()
    console.print(
        f"speed-up: [bold]{_ratio(speculative, incremental):.2f}x[/bold] in tokens per second of all {len(pairs)} answers, "
        f"{speed_ups[0]:.2f}x to {speed_ups[-1]:.2f}x by question; {_reason(speed_ups, speculative)}"
    )
    console.print(f"identical output: [bold]{'yes' if is_identical else 'NO'}[/bold]")
    console.print("\nNext:", style="dim")
    program = _program()
    width = max(len(words) for words, _ in _NEXT)
    for words, meaning in _NEXT:
        console.print(f"  {program} {words:<{width}}  {meaning}", style="dim", markup=False)
    return 0 if is_identical else 1


def _ratio(speculative: Sequence[Usage], incremental: Sequence[Usage]) -> float:
    slower = tokens_per_s(incremental)
    return tokens_per_s(speculative) / slower if slower > 0 else 1.0


def _reason(speed_ups: list[float], speculative: list[Usage]) -> str:
    """What was found, in words."""
    if min(usage.num_output_tokens for usage in speculative) < _MIN_MEASURED_TOKENS:
        return f"answers of fewer than {_MIN_MEASURED_TOKENS} tokens are too short to measure"
    if not any(usage.num_drafted_nodes for usage in speculative):
        return "drafting does not pay here, so the router left it off"
    found = f"a step of the LLM gave {tokens_per_step(speculative):.2f} tokens instead of 1"
    if min(speed_ups) > 1 + _NOISE:
        return found
    if max(speed_ups) > 1 + _NOISE:
        return f"{found}; what that gains differs by question, and where other programs share the machine"
    return f"{found}, but trees are dear on this machine: the router drafted little"


def _program() -> str:
    """How this program was called: by its name where that finds it, else by the shorter of its paths."""
    path = Path(sys.argv[0]).absolute()
    found = shutil.which(path.name)
    if found is not None and Path(found).absolute() == path:
        return path.name
    return min(str(path), os.path.relpath(path), key=len)


def _free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
