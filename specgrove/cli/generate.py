"""``specgrove generate``: one prompt, streamed to stdout, or one line of JSON."""

from __future__ import annotations

import argparse
import json
import sys

from specgrove.cli.rendering import TokenPrinter, make_console, statistics, summary_line
from specgrove.cli.suites import router_address
from specgrove.client import Client
from specgrove.client_arguments import Prompt
from specgrove.client_wire import GenerateParams, completion_of
from specgrove.output import Chunk
from specgrove.request import SpeculationOptions


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the output is complete."""
    text = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    prompt: Prompt = text if arguments.raw else [("user", text)]
    chunks: list[Chunk] = []
    with router_address(arguments) as address, Client(address) as client:
        stream = client.generate(prompt, **generate_params(arguments))
        if arguments.json:
            chunks.extend(stream)
        else:
            printer = TokenPrinter(make_console())
            for chunk in stream:
                chunks.append(chunk)
                printer.write(chunk)
            printer.finish()
    completion = completion_of(chunks)
    if arguments.json:
        result = {
            "output_text": completion.text,
            "output_tokens": list(completion.token_ids),
            "finish_reason": completion.finish_reason.value,
            "stop_reason": completion.stop_reason,
            "statistics": statistics(completion.usage),
        }
        print(json.dumps(result, ensure_ascii=False))
    else:
        make_console(stderr=True).print(summary_line(completion.usage), style="dim")
    return 0


def generate_params(arguments: argparse.Namespace) -> GenerateParams:
    """The parameters that the sampling options stand for."""
    # With a running suite, --ssm picks among the SSMs it has; a suite started here has no others.
    ssms = tuple(arguments.ssm or ()) if arguments.address is not None else ()
    return GenerateParams(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
        max_tokens=arguments.max_tokens,
        ignore_eos=arguments.ignore_eos,
        stop=tuple(arguments.stop or ()),
        speculation=SpeculationOptions(disabled=arguments.no_speculation, ssms=ssms),
    )
