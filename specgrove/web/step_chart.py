"""The chart of tokens per step as SVG: a column for each step, a cell for each of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

from specgrove.web.conversation import Step
from specgrove.web.ssm_marks import NUM_LOOKS, SsmMarks

_NUM_SHOWN = 40
_MIN_HEIGHT_CELLS = 4
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 400, 132, 20, 18, 8
_GAP = 1.5

# Cells are told apart by patterns, too, in the order of SsmMarks: full, stripes, dots, lines, crosses, stripes the other way.
_PATTERNS = (
    "",
    '<path d="M-1 1l2-2M0 6l6-6M5 7l2-2" />',
    '<circle cx="3" cy="3" r="1.4" />',
    '<path d="M0 3h6" />',
    '<path d="M0 3h6M3 0v6" />',
    '<path d="M7 1l-2-2M6 6L0 0M1 7l-2-2" />',
)
assert len(_PATTERNS) == NUM_LOOKS


def chart_svg(steps: Sequence[Step], marks: SsmMarks) -> str:
    """Of the last steps, which come in from the right."""
    shown = steps[-_NUM_SHOWN:]
    num_cells = max(_MIN_HEIGHT_CELLS, *(len(step) for step in shown)) if shown else _MIN_HEIGHT_CELLS
    column_width = (_WIDTH - _LEFT) / _NUM_SHOWN
    cell_height = (_HEIGHT - _BOTTOM - _TOP) / num_cells
    parts = [_grid(num_cells, cell_height)]
    for place, step in enumerate(shown, _NUM_SHOWN - len(shown)):
        # The LLM's own token lies at the foot of each column: what stands on it was won by drafting.
        for row, drafted_by in enumerate(sorted(step, key=bool)):
            x, y = _LEFT + place * column_width, _HEIGHT - _BOTTOM - (row + 1) * cell_height
            look = marks.look(drafted_by)
            size = f'x="{x + _GAP / 2:.1f}" y="{y + _GAP / 2:.1f}" width="{column_width - _GAP:.1f}" height="{cell_height - _GAP:.1f}"'
            parts.append(f'<rect {size} rx="1.5" class="cell {look}" fill="url(#{look})" />')
    return (
        f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{_in_words(steps)}">'
        f"<defs>{_patterns()}</defs>{''.join(parts)}"
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">newest step</text></svg>'
    )


def _grid(num_cells: int, cell_height: float) -> str:
    every = 1 if num_cells <= 6 else 2
    lines = []
    for count in range(0, num_cells + 1, every):
        y = _HEIGHT - _BOTTOM - count * cell_height
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}" />')
        lines.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{count}</text>')
    return "".join(lines)


def _patterns() -> str:
    looks = [(f"ssm{place}", pattern) for place, pattern in enumerate(_PATTERNS)]
    looks += [("own", ""), ("several", '<path d="M0 1.5h6M0 4.5h6" />')]
    return "".join(
        f'<pattern id="{look}" class="{look}" width="6" height="6" patternUnits="userSpaceOnUse">'
        f'<rect width="6" height="6" class="ground" />{pattern}</pattern>'
        for look, pattern in looks
    )


def _in_words(steps: Sequence[Step]) -> str:
    if not steps:
        return "Tokens per step: nothing yet"
    num_tokens = sum(len(step) for step in steps)
    return f"Tokens per step: {num_tokens} tokens in {len(steps)} steps, {num_tokens / len(steps):.2f} on average"
