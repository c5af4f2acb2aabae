"""The chart of ``specgrove eval``: milliseconds per token and tokens per step, by prompt set. Needs matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from specgrove.measuring.prompt_sets import Decoded, SetResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ENDINGS = (".png", ".svg", ".pdf")
_BAR = 0.4


def check_can_draw(path: Path) -> None:
    """Before hours are spent on the figures. Raises ``ValueError``."""
    if path.suffix not in _ENDINGS:
        raise ValueError(f"--chart: the name must end with {', '.join(_ENDINGS)}, got {path}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--chart: there is no folder {path.absolute().parent}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("--chart needs matplotlib, which is not installed: pip install matplotlib")


def draw(results: Sequence[SetResult], title: str, path: Path) -> None:
    """Writes the file. Raises ``OSError``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 + 0.6 * len(results)))
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(
        left, results, "milliseconds per token, median and quartiles", lambda d: d.ms_per_token.median, has_spread=True
    )
    _bars(right, results, "verified tokens per step of the LLM", lambda d: d.tokens_per_step, has_spread=False)
    left.set_yticks(range(len(results)), [result.name for result in results])
    left.invert_yaxis()
    if any(result.incremental is not None for result in results):
        figure.legend(*left.get_legend_handles_labels(), loc="lower right", ncols=2, frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(path, dpi=120)


def _bars(
    axes: Axes, results: Sequence[SetResult], label: str, value: Callable[[Decoded], float], *, has_spread: bool
) -> None:
    ways = {
        "speculative": ("tab:green", [(place, result.decoded) for place, result in enumerate(results)]),
        "incremental": (
            "tab:gray",
            [(place, result.incremental) for place, result in enumerate(results) if result.incremental is not None],
        ),
    }
    for index, (name, (colour, found)) in enumerate(ways.items()):
        if not found:
            continue
        medians = [value(decoded) for _, decoded in found]
        spread = [
            [decoded.ms_per_token.median - decoded.ms_per_token.low for _, decoded in found],
            [decoded.ms_per_token.high - decoded.ms_per_token.median for _, decoded in found],
        ]
        axes.barh(
            [place + (index - 0.5) * _BAR for place, _ in found],
            medians,
            height=_BAR,
            xerr=spread if has_spread else None,
            color=colour,
            ecolor="black",
            capsize=2,
            label=name,
        )
    axes.set_xlabel(label)
