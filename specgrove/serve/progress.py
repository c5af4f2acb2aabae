"""What a caller sees while something takes long: on a terminal, on stderr, and in a notebook that has ipywidgets; elsewhere nothing."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.console


@contextlib.contextmanager
def status(message: str) -> Iterator[Callable[[str], None]]:
    """A spinner; the function that is given changes its text."""
    console = _console()
    if not _is_seen(console):
        yield lambda message: None
        return
    with console.status(message, spinner="dots") as shown:
        yield shown.update


@contextlib.contextmanager
def counted(total: int, is_shown: bool | None) -> Iterator[Callable[[int, bool], None]]:
    """A bar of ``total`` requests; the function is told of each that is done: the number of its tokens, and whether it failed.

    ``is_shown``: ``None`` is where somebody sees it.
    """
    import rich.progress

    console = _console()
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(),
    )
    is_hidden = not (_is_seen(console) if is_shown is None else is_shown)
    with rich.progress.Progress(*columns, console=console, disable=is_hidden) as bar:
        task = bar.add_task("generating", total=total, rate="")
        num_tokens = num_failed = 0

        def done(num_more: int, has_failed: bool) -> None:
            nonlocal num_tokens, num_failed
            num_tokens, num_failed = num_tokens + num_more, num_failed + has_failed
            elapsed_s = bar.tasks[0].elapsed or 0.0
            rate = f"{num_tokens / elapsed_s:.0f} tokens/s" if elapsed_s > 0 else ""
            bar.update(task, advance=1, rate=f"{rate}, {num_failed} failed" if num_failed else rate)

        yield done


def _console() -> rich.console.Console:
    import rich.console

    return rich.console.Console(stderr=True, highlight=False)


def _is_seen(console: rich.console.Console) -> bool:
    """In notebooks rich draws with ipywidgets, and complains without."""
    return console.is_interactive or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)
