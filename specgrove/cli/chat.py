"""``specgrove chat``: a conversation at the terminal. Ctrl-C stops an answer; Ctrl-D or /exit ends the program."""

from __future__ import annotations

import argparse

import rich.console

from specgrove.cli.connecting import connected
from specgrove.cli.generate import generate_params
from specgrove.cli.prompt_input import HELP, checked_prompt, questions
from specgrove.cli.rendering import legend, make_console, summary_line
from specgrove.cli.streaming import streamed
from specgrove.client import Client
from specgrove.client_wire import GenerateParams
from specgrove.errors import InvalidRequestError
from specgrove.folders import default_state_dir
from specgrove.output import Chunk

Messages = list[tuple[str, str]]


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the user leaves."""
    console = make_console()
    opening = [("system", arguments.system)] if arguments.system else []
    messages = list(opening)
    with connected(arguments) as client:
        if console.is_terminal:
            _greet(client, console)
        for typed in questions(default_state_dir() / "chat_history"):
            text = typed.strip()
            if typed.startswith("/"):
                if text in ("/exit", "/quit"):
                    return 0
                if text == "/reset":
                    messages = list(opening)
                else:
                    console.print(
                        HELP if text == "/help" else f"{text.split()[0]} is no command; /help lists them", markup=False
                    )
            elif text:
                messages = _turn(client, console, [*messages, ("user", text)], generate_params(arguments))
    return 0


def _greet(client: Client, console: rich.console.Console) -> None:
    info = client.model_info()
    console.print(f"{info.model} ({info.dtype}), SSMs: {', '.join(info.ssms) or 'none'}", style="bold", markup=False)
    console.print(legend())
    console.print("Ctrl-C stops an answer, Ctrl-D leaves, /help says more", style="dim")


def _turn(client: Client, console: rich.console.Console, messages: Messages, params: GenerateParams) -> Messages:
    """The conversation with the answer added; without the question when it is refused."""
    chunks: list[Chunk] = []
    was_stopped = False
    try:
        checked_prompt(messages[-1][1])
        chunks.extend(streamed(client, console, messages, params))  # what came before an interruption stays
    except (InvalidRequestError, ValueError) as error:
        make_console(stderr=True).print(f"error: {error} (/reset forgets the conversation)", markup=False)
        return messages[:-1]
    except KeyboardInterrupt:
        was_stopped = True
    usage = chunks[-1].usage if chunks else None
    if console.is_terminal:
        console.print(
            "stopped" if usage is None else summary_line(usage, chunks[-1].finish_reason), style="dim", end="\n\n"
        )
    answer = "".join(chunk.text for chunk in chunks)
    if was_stopped:
        # Without a word of it there is nothing to go on from.
        return [*messages, ("assistant", f"{answer} ...")] if answer else messages[:-1]
    return [*messages, ("assistant", answer)]
