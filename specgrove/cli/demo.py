"""``specgrove demo``: one answer with the drafted tokens in colour, what it took, and the same answer decoded incrementally."""

from __future__ import annotations

import argparse
import socket

import rich.console

from specgrove.cli.rendering import TokenPrinter, legend, make_console, summary_table
from specgrove.cli.suites import started_suite, waiting
from specgrove.client import Client
from specgrove.client_arguments import ChatMessages
from specgrove.client_wire import completion_of
from specgrove.output import Chunk, Completion, ModelInfo
from specgrove.request import SpeculationOptions

_QUESTION = "What is gravity? Explain it to a curious child, then list three things that gravity does."


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when both ways of decoding gave the same tokens."""
    console = make_console()
    question = arguments.question or _QUESTION
    messages = [("user", question)]
    with started_suite(arguments, address=f"127.0.0.1:{_free_port()}") as suite, Client(suite.address) as client:
        info = client.model_info()
        console.print(_serving(info, suite.address), soft_wrap=True)
        with waiting(console, "warming up"):
            client.complete([("user", "Count to ten.")], max_tokens=16)
        console.print(legend())
        console.print(f"\n> {question}\n", style="dim", markup=False, soft_wrap=True)
        speculative = _streamed(client, console, messages, arguments.max_tokens)
        console.print()
        console.print(summary_table(speculative.usage))
        incremental = _incremental(client, console, messages, arguments.max_tokens)
    return _compare(console, speculative, incremental)


def _serving(info: ModelInfo, address: str) -> str:
    return f"{info.model} ({info.dtype}), SSMs {', '.join(info.ssms)}, three services, router at {address}"


def _streamed(client: Client, console: rich.console.Console, messages: ChatMessages, max_tokens: int) -> Completion:
    printer = TokenPrinter(console)
    chunks: list[Chunk] = []
    for chunk in client.generate(messages, max_tokens=max_tokens):
        chunks.append(chunk)
        printer.write(chunk)
    printer.finish()
    return completion_of(chunks)


def _incremental(client: Client, console: rich.console.Console, messages: ChatMessages, max_tokens: int) -> Completion:
    chunks: list[Chunk] = []
    with waiting(console, "the same without speculation") as status:
        disabled = SpeculationOptions(disabled=True)
        for chunk in client.generate(messages, max_tokens=max_tokens, speculation=disabled):
            chunks.append(chunk)
            status.update(f"the same without speculation: {sum(len(chunk.tokens) for chunk in chunks)} tokens")
    return completion_of(chunks)


def _compare(console: rich.console.Console, speculative: Completion, incremental: Completion) -> int:
    speeds = (speculative.usage.tokens_per_s, incremental.usage.tokens_per_s)
    is_identical = speculative.token_ids == incremental.token_ids
    console.print(f"without speculation: {speeds[1]:.1f} tokens/s, {incremental.usage.num_verify_steps} verifier steps")
    if speeds[1] > 0:
        console.print(f"speed-up: {speeds[0] / speeds[1]:.2f}x")
    console.print(f"identical output: {'yes' if is_identical else 'NO'}")
    return 0 if is_identical else 1


def _free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
