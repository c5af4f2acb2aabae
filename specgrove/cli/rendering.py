"""How output looks in a terminal: streamed text with drafted tokens in colour, and the summary below it."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import rich.console
import rich.table
import rich.text

from specgrove.output import Chunk, Usage

DRAFTED_STYLE = "green"
VERIFIER_STYLE = "bold"


def make_console(*, stderr: bool = False) -> rich.console.Console:
    """For all commands: lines are never cut at a width, so that scripts can read them."""
    return rich.console.Console(stderr=stderr, highlight=False, soft_wrap=True)


class TokenPrinter:
    """Writes an output as it comes. On a terminal drafted-and-accepted tokens look different from the verifier's own."""

    def __init__(self, console: rich.console.Console) -> None:
        self._console = console
        # Text of tokens that chunks have not shown yet: a chunk holds back what may become a stop text.
        self._pieces: collections.deque[tuple[str, bool]] = collections.deque()

    def write(self, chunk: Chunk) -> None:
        """Shows the chunk's text, in the colours of the tokens it came from."""
        self._pieces.extend((token.text, bool(token.drafted_by)) for token in chunk.tokens if token.text)
        if not self._console.is_terminal:
            self._console.file.write(chunk.text)
            self._console.file.flush()
            return
        line = rich.text.Text()
        left = chunk.text
        while left and self._pieces:
            text, is_drafted = self._pieces.popleft()
            shown, rest = text[: len(left)], text[len(left) :]
            line.append(shown, DRAFTED_STYLE if is_drafted else VERIFIER_STYLE)
            left = left[len(shown) :]
            if rest:
                self._pieces.appendleft((rest, is_drafted))
        line.append(left)
        self._console.print(line, end="", soft_wrap=True)

    def finish(self) -> None:
        """Ends the line."""
        self._console.print()


def legend() -> rich.text.Text:
    """What the colours mean."""
    return rich.text.Text.assemble(
        ("drafted by an SSM and accepted", DRAFTED_STYLE), "  ", ("the verifier's own", VERIFIER_STYLE)
    )


def statistics(usage: Usage) -> dict[str, Any]:
    """All of ``Usage`` and what follows from it."""
    return {
        **dataclasses.asdict(usage),
        "tokens_per_s": round(usage.tokens_per_s, 2),
        "mean_acceptance_len": round(usage.mean_acceptance_len, 3),
    }


def summary_line(usage: Usage) -> str:
    """One line for below an answer."""
    return (
        f"{usage.num_output_tokens} tokens, {usage.tokens_per_s:.1f} tokens/s, first token after "
        f"{usage.first_token_ms:.0f} ms, {usage.mean_acceptance_len:.2f} tokens per verifier step"
    )


def summary_table(usage: Usage) -> rich.table.Table:
    """What the demo shows of the speculative run."""
    num_steps = max(usage.num_verify_steps, 1)
    table = rich.table.Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("speed", f"{usage.tokens_per_s:.1f} tokens/s after a first token at {usage.first_token_ms:.0f} ms")
    table.add_row("verifier steps", f"{usage.num_verify_steps} for {usage.num_output_tokens} tokens")
    table.add_row("mean acceptance length", f"{usage.mean_acceptance_len:.2f} tokens per verifier step")
    table.add_row("SSM time per step", f"{usage.draft_ms / num_steps:.1f} ms")
    table.add_row("LLM time per step", f"{usage.verify_ms / num_steps:.1f} ms")
    return table
