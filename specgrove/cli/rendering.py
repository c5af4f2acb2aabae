"""How output looks in a terminal: streamed text with drafted tokens in colour, and the summary below it."""

from __future__ import annotations

import collections
import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text
from rich.cells import cell_len

from specgrove.client.output import Chunk, Usage, tokens_per_s, tokens_per_step
from specgrove.loop.output import FinishReason

DRAFTED_STYLE = "green"
VERIFIER_STYLE = ""
# Of tables that nobody sees: no cell is broken.
_SCRIPTS_WIDTH = 240
_USUAL_WIDTH = 80
_PARTS = re.compile(r"\n|[^\S\n]+|\S+")


def make_console(*, stderr: bool = False, quiet: bool = False) -> rich.console.Console:
    """For all commands: lines are wrapped at words where somebody sees them, and left whole for scripts.

    Variables such as ``FORCE_COLOR`` make no terminal of a file, and one of no width is as wide as usual.
    """
    stream = sys.stderr if stderr else sys.stdout
    is_seen = stream is not None and stream.isatty()
    console = rich.console.Console(
        stderr=stderr, highlight=False, quiet=quiet, force_terminal=None if is_seen else False
    )
    if not console.is_terminal:
        console.soft_wrap = True
        console.width = _SCRIPTS_WIDTH
    elif console.width < 1:  # COLUMNS=0
        console.width = _USUAL_WIDTH
    return console


def print_note(console: rich.console.Console, text: str) -> None:
    """A line for people, in dim."""
    console.print(text, style="dim", markup=False)


def print_json(value: object) -> None:
    """One line on stdout, which is JSON in any encoding."""
    is_unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(value, ensure_ascii=not is_unicode))


class TokenPrinter:
    """Writes an output as it comes. On a terminal drafted-and-accepted tokens have another colour, and no word is cut at the edge."""

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        self._has_written = False
        self._lines = WrappedLines(console) if console.is_terminal else None
        # Text of tokens that chunks have not shown yet: a chunk holds back what may become a stop text.
        self._pieces: collections.deque[tuple[str, bool]] = collections.deque()

    def write(self, chunk: Chunk) -> None:
        """Shows the chunk's text, in the colours of the tokens it came from."""
        self._has_written = self._has_written or bool(chunk.text)
        if self._lines is None:
            self._console.file.write(chunk.text)
            self._console.file.flush()
            return
        self._pieces.extend((token.text, bool(token.drafted_by)) for token in chunk.tokens if token.text)
        left = chunk.text
        while left and self._pieces:
            text, is_drafted = self._pieces.popleft()
            shown, rest = text[: len(left)], text[len(left) :]
            self._lines.add(shown, DRAFTED_STYLE if is_drafted else VERIFIER_STYLE)
            left = left[len(shown) :]
            if rest:
                self._pieces.appendleft((rest, is_drafted))
        self._lines.add(left, VERIFIER_STYLE)
        self._lines.show()

    def finish(self) -> None:
        """Ends the line."""
        if self._lines is not None:
            self._lines.finish()
        if self._has_written:
            self._console.print()


class WrappedLines:
    """Streamed text on a terminal: a word that does not fit goes to the next line, also when it comes in pieces."""

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        self._column = 0
        # The word that may still grow: it is shown when its end, or the next character of two cells, is there.
        self._word = rich.text.Text()
        self._ready = rich.text.Text()

    def add(self, text: str, style: str) -> None:
        """Takes text in; ``show`` prints what is certain."""
        for part in _PARTS.findall(text):
            if part == "\n":
                self._end_word()
                self._break_line()
            elif part.isspace():
                self._end_word()
                # Blanks at the edge are the line's end.
                if self._column < self._console.width:
                    self._ready.append(part, style)
                    self._column += cell_len(part)
            else:
                self._grow_word(part, style)

    def _grow_word(self, part: str, style: str) -> None:
        if cell_len(part) == len(part) and self._word.cell_len + len(part) < self._console.width:
            self._word.append(part, style)
            return
        # Scripts without blanks, and words longer than a line, may be broken anywhere.
        for character in part:
            self._end_word()
            self._word.append(character, style)

    def show(self) -> None:
        """Prints whole words."""
        self._console.print(self._ready, end="", soft_wrap=True)
        self._ready = rich.text.Text()

    def finish(self) -> None:
        """The last word, too."""
        self._end_word()
        self.show()

    def _end_word(self) -> None:
        if self._column > 0 and self._column + self._word.cell_len > self._console.width:
            self._break_line()
        self._ready.append_text(self._word)
        self._column += self._word.cell_len
        self._word = rich.text.Text()

    def _break_line(self) -> None:
        self._ready.append("\n")
        self._column = 0


def print_legend(shown_on: rich.console.Console, console: rich.console.Console) -> None:
    """What the colours on ``shown_on`` mean, where there are any."""
    if not shown_on.is_terminal or shown_on.no_color:
        return
    legend = rich.text.Text.assemble(
        ("green", DRAFTED_STYLE), ": drafted by an SSM and accepted by the LLM; the rest is the LLM's own"
    )
    console.print(legend)


def usage_fields(usage: Usage) -> dict[str, Any]:
    """All of ``Usage`` and what follows from it."""
    return {
        **dataclasses.asdict(usage),
        "tokens_per_s": round(usage.tokens_per_s, 2),
        "mean_acceptance_len": round(usage.mean_acceptance_len, 3),
    }


def summary_line(usage: Usage, finish_reason: FinishReason | None) -> str:
    """One line for below an answer."""
    limit = " (the limit)" if finish_reason is FinishReason.LENGTH else ""
    drafted = "" if usage.num_drafted_nodes else ", nothing drafted"
    return (
        f"{usage.num_output_tokens} tokens{limit}, {usage.tokens_per_s:.1f} tokens/s, first after "
        f"{usage.first_token_ms:.0f} ms, {usage.mean_acceptance_len:.2f} tokens per step{drafted}"
    )


def plain_table(columns: Sequence[str], texts: Sequence[str]) -> rich.table.Table:
    """One with a line below its head. Columns of ``texts`` stand left, the first of all may be broken; others are numbers."""
    # With a blank of the box two blanks between columns: tables with many of them fit 80 characters.
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if column in texts else "right", no_wrap=place > 0)
    return table


def comparison_table(speculative: Sequence[Usage], incremental: Sequence[Usage]) -> rich.table.Table:
    """The same answers made in both ways, side by side."""
    table = plain_table(("", "speculative", "incremental"), texts=("",))
    for name, of in _COMPARED:
        table.add_row(name, of(speculative), of(incremental))
    return table


def _drafting(usages: Sequence[Usage]) -> str:
    if not any(usage.num_drafted_nodes for usage in usages):
        return "-"
    return f"{sum(usage.draft_ms for usage in usages) / _num_steps(usages):.1f}"


def _num_steps(usages: Sequence[Usage]) -> int:
    return max(sum(usage.num_verify_steps for usage in usages), 1)


_COMPARED: tuple[tuple[str, Callable[[Sequence[Usage]], str]], ...] = (
    ("tokens per second", lambda usages: f"{tokens_per_s(usages):.1f}"),
    ("ms to the first token, median", lambda usages: f"{statistics.median(u.first_token_ms for u in usages):.0f}"),
    ("tokens", lambda usages: str(sum(u.num_output_tokens for u in usages))),
    ("LLM steps", lambda usages: str(_num_steps(usages))),
    ("tokens per LLM step", lambda usages: f"{tokens_per_step(usages):.2f}"),
    ("LLM's ms per step", lambda usages: f"{sum(u.verify_ms for u in usages) / _num_steps(usages):.1f}"),
    ("SSMs' ms per step", _drafting),
)
