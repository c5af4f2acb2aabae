"""What ``make paper-tables`` leaves: tables on the screen, JSON with its conditions, and a chart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.paper.tables import MULTI_STEP, NAIVE, WIDTHS, Cell

TITLES = {
    "success_rates": "Table 1: share of tokens that are right, by number of candidates",
    "tokens_per_step": "Table 2: tokens a step, by width of the tree (depth 8)",
}


def print_tables(tables: Mapping[str, Sequence[Cell]], console: Console) -> None:
    """Tables 1 and 2 by prompt set, and table 3: the rules at width 5."""
    for name, cells in tables.items():
        table = Table(title=TITLES[name])
        for column in ("", "rule, candidates", "prompts", *map(str, WIDTHS)):
            table.add_column(column, justify="left" if len(column) > 1 else "right")
        for cell in cells:
            table.add_row(cell.sampling, cell.rule, cell.prompt_set, *(f"{value:.3f}" for value in cell.values))
        console.print(table)
    table = Table(title="Table 3: tokens a step of sampled output at width 5, and by how much more than naive sampling")
    rows = rules_at_full_width(tables["tokens_per_step"])
    prompt_sets = sorted({prompt_set for by_set in rows.values() for prompt_set in by_set})
    for column in ("rule, candidates", *prompt_sets):
        table.add_column(column)
    for rule, by_set in rows.items():
        ratios = (f"{by_set[name]:.2f} ({by_set[name] / rows[NAIVE][name]:.2f} x)" for name in prompt_sets)
        table.add_row(rule, *ratios)
    console.print(table)


def rules_at_full_width(cells: Sequence[Cell]) -> dict[str, dict[str, float]]:
    """Table 3, by rule and prompt set."""
    found: dict[str, dict[str, float]] = {}
    for cell in cells:
        if cell.sampling == "sampled":
            found.setdefault(cell.rule, {})[cell.prompt_set] = cell.values[-1]
    return found


def write_json(tables: Mapping[str, Sequence[Cell]], facts: Mapping[str, Any], path: Path) -> None:
    """Rows of each table, and the conditions."""
    content: dict[str, Any] = {name: [asdict(cell) for cell in cells] for name, cells in tables.items()}
    content["rules_at_width_5"] = rules_at_full_width(tables["tokens_per_step"])
    content["conditions"] = dict(facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_chart(
    tables: Mapping[str, Sequence[Cell]], facts: Mapping[str, Any], path: Path, say: Callable[[str], None]
) -> None:
    """A row for each table, a column for each prompt set. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("no chart: pip install matplotlib")
        return
    prompt_sets = list(dict.fromkeys(cell.prompt_set for cells in tables.values() for cell in cells))
    figure = Figure(figsize=(3.2 * len(prompt_sets) + 1, 7))
    grid = figure.subplots(len(tables), len(prompt_sets), squeeze=False, sharex=True, sharey="row")
    for axes_of_table, (name, cells) in zip(grid, tables.items(), strict=True):
        for axes, prompt_set in zip(axes_of_table, prompt_sets, strict=True):
            for cell in cells:
                if cell.prompt_set == prompt_set:
                    style = "--" if cell.rule in (MULTI_STEP, NAIVE) else "-"
                    label = f"{cell.sampling}: {cell.rule}"
                    axes.plot(list(WIDTHS), cell.values, style, marker="o", markersize=3, label=label)
            axes.set_title(prompt_set)
            axes.grid(visible=True, alpha=0.3)
        axes_of_table[0].set_ylabel("right" if name == "success_rates" else "tokens a step")
    for axes in grid[-1]:
        axes.set_xlabel("candidates, width")
        axes.set_xticks(list(WIDTHS))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, fontsize=8)
    figure.text(0.01, 0.985, ", ".join(str(fact) for fact in facts.values()), fontsize=6, va="top")
    figure.tight_layout(rect=(0, 0.09, 1, 0.97))
    figure.savefig(path, dpi=110)
    say(f"chart in {path}")
