"""The last token tree as SVG, from left to right: what was drafted, the path that the LLM accepted, and the token that it added."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from specgrove.client.output import StepDetails, VerifiedNode
from specgrove.web.conversation import Answer
from specgrove.web.ssm_marks import SsmMarks

_COLUMN, _ROW, _NODE_WIDTH, _NODE_HEIGHT, _MARGIN = 98, 31, 82, 25, 3
_MAX_LABEL_LEN = 7
# Where there is too little room for a tree it is drawn smaller, and then scrolls.
_MIN_SCALE = 0.85
_VISIBLE = {"\n": "↵", "\t": "⇥", "\r": "␍"}


@dataclass(frozen=True, slots=True)
class _Place:
    column: int
    row: int


def tree_html(answer: Answer, marks: SsmMarks) -> str:
    """The tree of the last step in which something was drafted, with a line that says what came of it."""
    tree = answer.last_tree
    if tree is None:
        words = "Nothing has been drafted" + (": the LLM goes on by itself." if answer.tokens else " yet.")
        return f'<p class="caption">{words}</p>'
    num_accepted = sum(node.is_accepted for node in tree.nodes)
    added = "" if answer.own_token is None else ", and the LLM added one"
    return (
        f'<p class="caption">Step {answer.last_tree_step}: {_counted(len(tree.nodes) - 1, "token")} drafted, '
        f"<strong>{num_accepted} accepted</strong>{added}.</p>"
        f'<div class="scroll" tabindex="0" role="group" aria-label="Token tree; scrolls sideways">{_svg(tree, answer, marks)}</div>'
    )


def _svg(tree: StepDetails, answer: Answer, marks: SsmMarks) -> str:
    places, own_place = _places(tree.nodes, has_own=answer.own_token is not None)
    edges, nodes = [], []
    for number, node in enumerate(tree.nodes):
        if node.parent is not None:
            edges.append(_edge(places[node.parent], places[number], is_accepted=node.is_accepted))
        nodes.append(_node(node, places[number], marks, is_root=number == 0))
    if answer.own_token is not None and own_place is not None:
        path = [number for number, node in enumerate(tree.nodes) if node.is_accepted]
        edges.append(_edge(places[path[-1] if path else 0], own_place, is_accepted=True))
        nodes.append(_box(own_place, "accepted added", _label(answer.own_token.text, 5) or "end", "LLM"))
    shown = [*places, *([own_place] if own_place else [])]
    width = max(place.column for place in shown) * _COLUMN + _NODE_WIDTH + 2 * _MARGIN
    height = (max(place.row for place in shown) + 1) * _ROW
    # Edges of the accepted path are drawn last, above the others.
    edges.sort(key=lambda edge: "accepted" in edge)
    return (
        f'<svg class="tree" style="max-width:{width}px;min-width:{_MIN_SCALE * width:.0f}px" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(_in_words(tree, answer))}">{"".join(edges)}{"".join(nodes)}</svg>'
    )


def _places(nodes: Sequence[VerifiedNode], *, has_own: bool) -> tuple[list[_Place], _Place | None]:
    """A column for each depth, and a row for each leaf; the accepted path runs straight along the first row."""
    children: list[list[int]] = [[] for _ in nodes]
    for number, node in enumerate(nodes):
        if node.parent is not None:
            children[node.parent].append(number)
    places = [_Place(0, 0)] * len(nodes)
    own_place: _Place | None = None
    num_rows = 0
    is_on_path = [number == 0 or node.is_accepted for number, node in enumerate(nodes)]
    waiting = [(0, 0, True)]
    while waiting:
        number, column, is_first = waiting.pop()
        num_rows += not is_first
        places[number] = _Place(column, num_rows)
        below = sorted(children[number], key=lambda child: (not nodes[child].is_accepted, -nodes[child].log_prob))
        ends_path = is_on_path[number] and not any(nodes[child].is_accepted for child in below)
        if ends_path and has_own:
            own_place = _Place(column + 1, num_rows)
        for place, child in reversed(list(enumerate(below))):
            waiting.append((child, column + 1, place == 0 and not (ends_path and has_own)))
    return places, own_place


def _edge(start: _Place, end: _Place, *, is_accepted: bool) -> str:
    x1, y1 = start.column * _COLUMN + _NODE_WIDTH + _MARGIN, start.row * _ROW + _ROW / 2
    x2, y2 = end.column * _COLUMN + _MARGIN, end.row * _ROW + _ROW / 2
    middle = (x1 + x2) / 2
    look = "edge accepted" if is_accepted else "edge"
    return f'<path class="{look}" d="M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}" />'


def _node(node: VerifiedNode, place: _Place, marks: SsmMarks, *, is_root: bool) -> str:
    if is_root:
        return _box(place, "root", _label(node.text), "")
    look = f"{marks.look(node.drafted_by)} {'accepted' if node.is_accepted else 'rejected'}"
    letters = marks.letters(node.drafted_by)
    title = f"drafted by {' and '.join(node.drafted_by)}; {'accepted' if node.is_accepted else 'not accepted'}"
    return _box(place, look, _label(node.text), letters if len(letters) <= 2 else f"{letters[0]}+", title)


def _box(place: _Place, look: str, label: str, badge: str, title: str = "") -> str:
    x, y = place.column * _COLUMN + _MARGIN, place.row * _ROW + (_ROW - _NODE_HEIGHT) / 2
    tooltip = f"<title>{html.escape(title)}</title>" if title else ""
    badge_text = f'<text class="badge" x="{_NODE_WIDTH - 6}" y="17" text-anchor="end">{badge}</text>' if badge else ""
    return (
        f'<g class="node {look}" transform="translate({x} {y})">{tooltip}'
        f'<rect width="{_NODE_WIDTH}" height="{_NODE_HEIGHT}" rx="6" /><text x="8" y="17">{html.escape(label)}</text>{badge_text}</g>'
    )


def _label(text: str, max_len: int = _MAX_LABEL_LEN) -> str:
    """What can be seen of a token: blanks at its ends and control characters by signs, long ones cut."""
    num_blanks = len(text) - len(text.lstrip(" "))
    shown = "␣" * num_blanks + "".join(_visible(character) for character in text[num_blanks:])
    return shown if len(shown) <= max_len else f"{shown[: max_len - 1]}…"


def _visible(character: str) -> str:
    return character if character.isprintable() else _VISIBLE.get(character, "\N{REPLACEMENT CHARACTER}")


def _in_words(tree: StepDetails, answer: Answer) -> str:
    accepted = [_label(node.text) for node in tree.nodes if node.is_accepted]
    path = f"The LLM accepted {', '.join(accepted)}" if accepted else "The LLM accepted none"
    own = "" if answer.own_token is None else f" and added {_label(answer.own_token.text) or 'the end'}"
    return f"A token tree of {_counted(len(tree.nodes) - 1, 'token')}. {path}{own}."


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
