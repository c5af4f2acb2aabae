"""What a serving benchmark leaves: a table, JSON with the conditions beside it, and a chart."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.rounds import Failure, Row

_COLUMNS = ("batch", "contestant", "precision", "tokens/s", "min-max", "x transformers", "x incremental")
_STEP_COLUMNS = ("tokens/step", "ms/step", "of the limit", "512 tokens ms")


def print_table(rows: list[Row | Failure], console: Console) -> None:
    """One line per contestant and batch, with its ratio to transformers and to our incremental decoding in its precision."""
    table = Table(title="SpecGrove over gRPC, medians over rounds")
    for column in (*_COLUMNS, *_STEP_COLUMNS):
        table.add_column(column, justify="left" if column in ("contestant", "precision") else "right")
    measured = [row for row in rows if isinstance(row, Row)]
    for row in rows:
        if isinstance(row, Failure):
            table.add_row(str(row.batch), row.contestant, row.precision, "failed")
            continue
        peers = {(peer.contestant, peer.precision): peer.tokens_per_s for peer in measured if peer.batch == row.batch}
        table.add_row(
            str(row.batch),
            row.contestant,
            row.precision,
            f"{row.tokens_per_s:.1f}",
            f"{row.spread[0]:.0f}-{row.spread[1]:.0f}",
            _ratio(row.tokens_per_s, peers.get(("transformers generate", "bfloat16"))),
            _ratio(row.tokens_per_s, peers.get(("specgrove incremental", row.precision))),
            "" if row.tokens_per_step is None else f"{row.tokens_per_step:.2f}",
            "" if row.step_ms is None else f"{row.step_ms:.1f}",
            "" if row.limit_share is None else f"{row.limit_share:.0%}",
            "" if row.prompt_ms is None else f"{row.prompt_ms:.0f}",
        )
    console.print(table)
    for row in rows:
        if isinstance(row, Failure):
            console.print(f"batch {row.batch}: {row.contestant} {row.precision} failed: {row.reason}", markup=False)


def _ratio(value: float, reference: float | None) -> str:
    return f"{value / reference:.2f}" if reference else ""


def write_json(rows: list[Row | Failure], facts: dict[str, str], path: Path) -> None:
    """A list of rows, and the conditions in a file beside it."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    path.with_suffix(".conditions.json").write_text(json.dumps(facts, indent=2) + "\n")


def write_chart(found: list[Row | Failure], facts: dict[str, str], path: Path, progress: Callable[[str], None]) -> None:
    """Bars of tokens per second by batch, whiskers from the slowest to the fastest round. Needs matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        progress("no chart: pip install matplotlib")
        return
    rows = [row for row in found if isinstance(row, Row)]
    if not rows:
        progress("no chart: no contestant was measured")
        return
    batches = sorted({row.batch for row in rows})
    figure = Figure(figsize=(7 * len(batches), 1.2 + 0.32 * max(sum(r.batch == b for r in rows) for b in batches)))
    for axes, batch in zip(figure.subplots(1, len(batches), squeeze=False)[0], batches, strict=True):
        shown = [row for row in rows if row.batch == batch][::-1]
        rates = [row.tokens_per_s for row in shown]
        axes.barh(
            [f"{row.contestant} {row.precision}" for row in shown],
            rates,
            xerr=[
                [rate - row.spread[0] for rate, row in zip(rates, shown, strict=True)],
                [row.spread[1] - rate for rate, row in zip(rates, shown, strict=True)],
            ],
            color=["tab:green" if row.contestant.startswith("specgrove") else "tab:gray" for row in shown],
            ecolor="black",
            capsize=2,
        )
        axes.set_xlabel("tokens per second")
        axes.set_title("one request at a time" if batch == 1 else f"{batch} requests at once")
    figure.text(0.01, 0.005, ", ".join(facts.values()), fontsize=6)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    figure.savefig(path, dpi=120)
    progress(f"chart in {path}")
