"""``specgrove chat``: a conversation at the terminal. Ctrl-C stops an answer; Ctrl-D or /exit ends the program.

Questions may be piped in, too, one a line: then nobody is there to ask again, and what fails makes the exit code 1.
"""

from __future__ import annotations

import argparse
from typing import Literal

import rich.console
import rich.table

from specgrove.cli.connecting import connected
from specgrove.cli.flags import in_flags
from specgrove.cli.generate import generate_params
from specgrove.cli.prompt_input import checked_prompt, is_dialogue, questions
from specgrove.cli.rendering import make_console, print_legend, print_note, summary_line
from specgrove.cli.streaming import streamed
from specgrove.cli.terminal import without_echo
from specgrove.client import Client
from specgrove.client.output import Chunk
from specgrove.client.wire import GenerateParams
from specgrove.errors import InvalidRequestError, SpecGroveError, UnavailableError
from specgrove.machine.folders import default_state_dir
from specgrove.serving.status import connection_cause

_HELP = {
    "/help": "this list",
    "/reset": "forget the conversation",
    "/exit": "leave; so does Ctrl-D",
    "Enter": "send; Alt-Enter begins a new line, and pasted lines are one question",
    "Ctrl-C": "stop an answer, or clear the line",
    "Up, Down": "earlier questions",
    "a slash": "a question that begins with one: put a space before it",
}
# Each command, and what other programs call it.
_COMMANDS: dict[str, Literal["help", "reset", "exit"]] = {
    "/help": "help", "/?": "help", "/reset": "reset", "/clear": "reset", "/exit": "exit", "/quit": "exit", "/bye": "exit",
}  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 when the user leaves, or when all questions that were piped in have their answers."""
    if arguments.web is not None:
        from specgrove.cli import chat_page

        return chat_page.run(arguments)
    console = make_console()
    params = generate_params(arguments)
    if arguments.system:
        checked_prompt(arguments.system, "--system")
    with connected(arguments, needs_chat=True) as client:
        if console.is_terminal:
            _greet(client, console)
        conversation = Conversation(client, console, arguments.system, params)
        for typed in questions(default_state_dir() / "chat_history"):
            text = typed.strip()
            if not text:
                continue
            if not typed.startswith("/"):
                conversation.ask(text)
                continue
            match _COMMANDS.get(text):
                case "exit":
                    break
                case "reset":
                    conversation.reset()
                case "help":
                    console.print(_help())
                case None:
                    console.print(f"{text.split()[0]} is no command; /help lists them", markup=False)
    return 1 if conversation.has_failed and not is_dialogue() else 0


def _greet(client: Client, console: rich.console.Console) -> None:
    info = client.model_info()
    console.print(f"{info.model} ({info.dtype}), SSMs: {', '.join(info.ssms) or 'none'}", style="bold", markup=False)
    print_legend(console, console)
    print_note(console, "Ctrl-C stops an answer, Ctrl-D leaves, /help says more")


def _help() -> rich.table.Table:
    table = rich.table.Table.grid(padding=(0, 2))
    for key, meaning in _HELP.items():
        table.add_row(key, meaning)
    return table


class Conversation:
    """The messages so far. Invariant: each question in it has its answer, or what came of it before it was stopped."""

    def __init__(
        self, client: Client, console: rich.console.Console, system: str | None, params: GenerateParams
    ) -> None:
        self._client = client
        self._console = console
        self._params = params
        self._opening = [("system", system)] if system else []
        self._messages = list(self._opening)
        self.has_failed = False
        """Whether a question got no answer."""

    def reset(self) -> None:
        """Forgets all but the system message."""
        self._messages = list(self._opening)

    def ask(self, question: str) -> None:
        """Shows the answer as it comes. A question that fails is forgotten; where nobody can ask again, the failure is raised."""
        chunks: list[Chunk] = []
        try:
            checked_prompt(question)
            asked = [*self._messages, ("user", question)]
            with without_echo():
                chunks.extend(streamed(self._client, self._console, asked, self._params))  # what came stays
        except KeyboardInterrupt:
            if not is_dialogue():
                raise
        except (SpecGroveError, ValueError) as error:
            self._tell(error)
            return
        self._show_end(chunks)
        answer = "".join(chunk.text for chunk in chunks)
        if not chunks or chunks[-1].usage is None:
            if not answer:
                return  # without a word of it there is nothing to go on from
            answer += " ..."
        self._messages = [*asked, ("assistant", answer)]

    def _tell(self, error: Exception) -> None:
        """A conversation that the router does not take gets no better by being asked again."""
        self.has_failed = True
        is_refused = isinstance(error, (InvalidRequestError, ValueError))
        if not is_refused and not is_dialogue():
            raise error
        said = " ".join(connection_cause(str(error)).split())
        if isinstance(error, UnavailableError):
            said = f"the router does not answer: {said}; the conversation is kept"
        elif isinstance(error, InvalidRequestError):
            said = f"{in_flags(error)} (/reset forgets the conversation)"
        make_console(stderr=True).print(f"error: {said}", markup=False)

    def _show_end(self, chunks: list[Chunk]) -> None:
        if not self._console.is_terminal:
            return
        usage = chunks[-1].usage if chunks else None
        print_note(self._console, "stopped" if usage is None else summary_line(usage, chunks[-1].finish_reason))
        self._console.print()
