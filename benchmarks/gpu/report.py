"""What the GPU benchmark leaves: a table, JSON with the conditions, and a chart (PNG, where matplotlib is installed)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.gpu.rows import Row

_COLORS = {"met": "tab:green", "missed": "tab:red", "tiny": "tab:gray"}


def print_table(rows: Sequence[Row], facts: dict[str, str], console: Console) -> None:
    """One table for each part, then how many targets were met."""
    for part in dict.fromkeys(row.part for row in rows):
        table = Table(title=part, title_justify="left")
        for column in ("what", "value", "unit", "target", "", "ms", "fastest-slowest", "x the limit", "note"):
            is_text = column in ("what", "unit", "target", "", "note")
            table.add_column(column, justify="left" if is_text else "right", overflow="fold")
        for row in rows:
            if row.part == part:
                table.add_row(*_cells(row))
        console.print(table)
    verdicts = [row.verdict for row in rows]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("met", "missed", "skipped"))
    console.print(f"targets: {counts}")
    console.print(", ".join(facts.values()))


def line_of(row: Row) -> str:
    """One row as text, for a log that may end early."""
    return f"{row.part}: " + "; ".join(cell for cell in _cells(row) if cell)


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        "" if row.value is None else f"{row.value:.3g}" if row.value < 100 else f"{row.value:.0f}",
        row.unit,
        "" if row.target is None else str(row.target),
        row.verdict,
        "" if row.ms is None else f"{row.ms:.3f}",
        "" if row.spread_ms is None else f"{row.spread_ms[0]:.3f}-{row.spread_ms[1]:.3f}",
        "" if row.times_limit is None else f"{row.times_limit:.2f}",
        row.note,
    )


def write_json(rows: Sequence[Row], facts: dict[str, str], path: Path) -> None:
    """Conditions and rows, in one file. What was there is replaced at once, so that a run cut short leaves a whole file."""
    content = {
        "conditions": facts,
        "rows": [
            asdict(row) | {"target": None if row.target is None else str(row.target), "verdict": row.verdict}
            for row in rows
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def write_chart(rows: Sequence[Row], facts: dict[str, str], path: Path, progress: Callable[[str], None]) -> None:
    """Bars of how far each value is within its target: 1 is just met, more is better."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        progress("no chart: pip install matplotlib")
        return
    shown = [(row, row.value, row.target) for row in rows if row.value is not None and row.target is not None][::-1]
    if not shown:
        progress("no chart: nothing with a target was measured")
        return
    figure = Figure(figsize=(11, 1.6 + 0.22 * len(shown)))
    axes = figure.subplots()
    shares = [target.share(value) for _, value, target in shown]
    axes.barh(range(len(shown)), shares, color=[_COLORS[row.verdict] for row, _, _ in shown])
    axes.set_yticks(range(len(shown)), [f"{row.part}: {row.what}" for row, _, _ in shown], fontsize=7)
    for place, (row, value, target) in enumerate(shown):
        axes.text(0.02, place, f"{value:.3g} {row.unit} ({target})", va="center", fontsize=6)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlim(0, 2)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("share of the target: right of the line it is met")
    text = list(facts.values())
    figure.text(0.01, 0.004, "\n".join(", ".join(text[i : i + 6]) for i in range(0, len(text), 6)), fontsize=5)
    figure.tight_layout(rect=(0, 0.6 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=120)
    progress(f"chart in {path}")
