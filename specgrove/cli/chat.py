"""``specgrove chat``: a conversation at the terminal. Ctrl-C stops an answer, a second one (or Ctrl-D, /exit) the program."""

from __future__ import annotations

import argparse
import contextlib

import rich.console

from specgrove.cli.generate import generate_params
from specgrove.cli.rendering import TokenPrinter, legend, make_console, summary_line
from specgrove.cli.suites import router_address
from specgrove.client import Client
from specgrove.client_wire import GenerateParams
from specgrove.errors import InvalidRequestError


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the user leaves."""
    console = make_console()
    opening = [("system", arguments.system)] if arguments.system else []
    messages = list(opening)
    with router_address(arguments) as address, Client(address) as client:
        if console.is_terminal:
            console.print(legend())
            console.print("/reset forgets the conversation, /exit ends it", style="dim")
        while True:
            try:
                text = input("> " if console.is_terminal else "").strip()
            except EOFError:
                return 0
            if text == "/exit":
                return 0
            if text == "/reset":
                messages = list(opening)
            elif text:
                messages = _turn(client, console, [*messages, ("user", text)], generate_params(arguments))


def _turn(
    client: Client, console: rich.console.Console, messages: list[tuple[str, str]], params: GenerateParams
) -> list[tuple[str, str]]:
    """The conversation with the answer added; without the question when the router refuses it."""
    printer = TokenPrinter(console)
    answer = ""
    usage = None
    with contextlib.closing(client.generate(messages, **params)) as stream:
        try:
            for chunk in stream:
                printer.write(chunk)
                answer += chunk.text
                usage = chunk.usage
        except InvalidRequestError as error:
            make_console(stderr=True).print(f"error: {error} (try /reset)", markup=False)
            return messages[:-1]
        except KeyboardInterrupt:
            answer += " ..."
    printer.finish()
    if usage is not None and console.is_terminal:
        console.print(summary_line(usage), style="dim")
    return [*messages, ("assistant", answer)]
