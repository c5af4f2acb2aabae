"""How answers look on a terminal: colours of drafted tokens, and where lines end."""

from __future__ import annotations

import dataclasses
import io
import sys

import pytest
import rich.console

from specgrove.cli.rendering import TokenPrinter, make_console, print_legend, summary_line
from specgrove.client.output import Chunk, OutputToken, Usage


def terminal_output(monkeypatch: pytest.MonkeyPatch, chunks: list[Chunk], **environment: str) -> str:
    for name in ("NO_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    shown = io.StringIO()
    printer = TokenPrinter(rich.console.Console(file=shown, force_terminal=True, highlight=False))
    for chunk in chunks:
        printer.write(chunk)
    printer.finish()
    return shown.getvalue()


CHUNKS = [
    Chunk((OutputToken(1, "[one]"), OutputToken(2, " two", ("demo",))), "[one] t"),
    Chunk((OutputToken(3, " three"),), "wo th"),
]


def test_drafted_tokens_have_another_colour_also_when_text_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = terminal_output(monkeypatch, CHUNKS)
    assert shown == "[one]\x1b[32m \x1b[0m\x1b[32mt\x1b[0m\x1b[32mwo\x1b[0m th\n"


def test_no_word_is_cut_at_the_edge_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "a house on the hill"
    pieces = [words[start : start + 3] for start in range(0, len(words), 3)]
    chunks = [Chunk((OutputToken(0, piece),), piece) for piece in pieces]
    assert terminal_output(monkeypatch, chunks, COLUMNS="10") == "a house on\nthe hill\n"


def test_what_has_no_blanks_fills_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [Chunk((OutputToken(0, "人工智能是"),), "人工智能是")]
    shown = terminal_output(monkeypatch, chunks, COLUMNS="6")
    assert shown.split("\n") == ["人工智", "能是", ""]


def test_a_terminal_of_no_width_shows_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(sys, "stdout", shown := io.StringIO())
    monkeypatch.setattr(shown, "isatty", lambda: True)
    make_console().print("a house on the hill")
    assert shown.getvalue() == "a house on the hill\n"


def test_a_file_is_no_terminal_whatever_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of CI do: a text would get lines of 80 characters."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", shown := io.StringIO())
    printer = TokenPrinter(make_console())
    printer.write(Chunk((OutputToken(0, text := "a house " * 50, ("demo",)),), text))
    printer.finish()
    assert shown.getvalue() == text + "\n"


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32m" not in terminal_output(monkeypatch, CHUNKS, NO_COLOR="1")


@pytest.mark.parametrize(("environment", "count"), [({}, 1), ({"NO_COLOR": "1"}, 0)])
def test_colours_are_explained_where_there_are_any(
    environment: dict[str, str], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in ({"TERM": "xterm"} | environment).items():
        monkeypatch.setenv(name, value)
    shown = io.StringIO()
    console = rich.console.Console(file=shown, force_terminal=True)
    print_legend(console, console)
    assert shown.getvalue().count("drafted by an SSM") == count


def test_the_last_line_says_where_nothing_was_drafted() -> None:
    usage = Usage(5, 9, 4, (1, 2, 1), (3, 2), (3, 1), 12, 50.0, 100.0, 1.0, 90.0, 0, 1)
    line = "9 tokens, 80.0 tokens/s, first after 50 ms, 2.25 tokens per step"
    assert summary_line(usage, None) == line
    assert summary_line(dataclasses.replace(usage, num_drafted_nodes=0), None) == f"{line}, nothing drafted"
