"""What people type or pipe in: one prompt for ``generate``, question after question for ``chat``.

Invariant: what comes out is text that a router takes; anything else is a ``ValueError`` of one line.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from specgrove.client.arguments import Prompt
from specgrove.config import MAX_PUBLIC_REQUEST_BYTES

if TYPE_CHECKING:
    import rich.console
    from prompt_toolkit.history import History

    from specgrove.measuring.fitting import Fitting

# Some programs write one before a text in UTF-8, which it is no part of.
_BYTE_ORDER_MARK = "\ufeff"


_SHOWN_LEN = 40


def prompt_of(words: list[str]) -> str:
    """The prompt of ``generate``, from its arguments or from standard input. Raises ``ValueError``."""
    if len(words) > 1:
        raise ValueError(f'put the prompt in quotes: specgrove generate "{" ".join(words)}"')
    if words[0] == "-":
        return checked_prompt(_standard_input())
    if _is_file(words[0]):
        raise ValueError(f"{words[0]} is a file; to send what it holds: specgrove generate - < {shlex.quote(words[0])}")
    return checked_prompt(words[0])


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def checked_prompt(text: str, called: str = "the prompt") -> str:
    """Raises ``ValueError`` where no router would take it."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{called} is not UTF-8 text") from error
    if size == 0:
        raise ValueError(f"{called} is empty")
    if size >= MAX_PUBLIC_REQUEST_BYTES:
        raise ValueError(f"{called} has {size} bytes; a request may have {MAX_PUBLIC_REQUEST_BYTES}")
    return text


def as_prompts(texts: Iterable[str], *, is_raw: bool) -> list[Prompt]:
    """Texts to be continued as they are, or questions for the model's chat template. Raises ``ValueError`` for what no router takes."""
    checked = [checked_prompt(text, f"the prompt {text[:_SHOWN_LEN]!a}...") for text in texts]
    return list(checked) if is_raw else [[("user", text)] for text in checked]


def tell_left_out(fitting: Fitting, name: str, console: rich.console.Console) -> None:
    """A line where prompts of ``name`` are too long for the model."""
    if fitting.num_left_out:
        num_all = fitting.num_left_out + len(fitting.prompts)
        told = (
            f"{fitting.num_left_out} of {num_all} prompts are too long for the model, with their outputs, and left out"
        )
        console.print(f"{name}: {told}", markup=False)


def _standard_input() -> str:
    if sys.stdin is None:
        raise ValueError("standard input is closed: there is no prompt to read")
    # One byte more than is allowed tells that there is too much.
    data = sys.stdin.buffer.read(MAX_PUBLIC_REQUEST_BYTES + 1)
    if len(data) > MAX_PUBLIC_REQUEST_BYTES:
        raise ValueError(f"the prompt has more than the {MAX_PUBLIC_REQUEST_BYTES} bytes that a request may have")
    try:
        return data.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        raise ValueError(f"the prompt is not UTF-8 text: byte {error.start} is {data[error.start]:#04x}") from error


def questions(history: Path) -> Iterator[str]:
    """One question after the other, until the input ends. On a terminal lines can be edited, and ``history`` keeps them."""
    if sys.stdin is None:
        return iter(())
    return _typed_questions(history) if is_dialogue() else _piped_questions()


def is_dialogue() -> bool:
    """Whether somebody types, and sees the answers."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def _piped_questions() -> Iterator[str]:
    if isinstance(sys.stdin, io.TextIOWrapper):  # as the prompt of `generate -`, whatever the locale is
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    for number, line in enumerate(sys.stdin):
        yield (line.removeprefix(_BYTE_ORDER_MARK) if number == 0 else line).rstrip("\n")


def _typed_questions(history: Path) -> Iterator[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()
    # Several lines are one question: Enter sends them, as in any chat.
    keys.add("enter")(_send)

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        "> ", multiline=True, key_bindings=keys, history=_kept_questions(history), prompt_continuation="  "
    )
    while True:
        try:
            yield session.prompt()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return


def _kept_questions(path: Path) -> History:
    """In the file, as long as it can be read and written: a full disk or a read-only home costs nobody the conversation."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class KeptQuestions(FileHistory):
        def store_string(self, string: str) -> None:
            with contextlib.suppress(OSError):
                super().store_string(string)

    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with path.open("a+b") as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    except OSError:
        is_file = False
    return KeptQuestions(str(path)) if is_file else InMemoryHistory()


def _send(event: object) -> None:
    event.current_buffer.validate_and_handle()  # type: ignore[attr-defined]
