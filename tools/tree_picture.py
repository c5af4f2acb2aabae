"""A picture of a real token tree, for docs/concepts.md: ``python -m tools.tree_picture ADDRESS PROMPT > docs/images/tree.svg``.

Asks a running router, and draws the step whose tree had the most accepted tokens, as the chat page does.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import specgrove.web
from specgrove.client import Client
from specgrove.client.output import Chunk
from specgrove.loop.request import SpeculationOptions
from specgrove.web.conversation import Answer
from specgrove.web.ssm_marks import SsmMarks
from specgrove.web.tree_view import tree_html

_STYLE = Path(specgrove.web.__file__).with_name("style.css")
# What a tree's looks are made of, in the page's style.
_RULES = re.compile(r"^(?:\.(?:node|edge|ssm\d|several|own|added)\b|svg text)[^{]*\{[^}]*\}.*$", re.MULTILINE)
_MAX_TOKENS = 160


def main() -> None:
    """Prints the SVG."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("prompt")
    parser.add_argument("--max-nodes", type=int, default=8)
    asked = parser.parse_args()
    with Client(asked.address) as client:
        marks = SsmMarks(client.model_info().ssms)
        options = SpeculationOptions(max_num_nodes=asked.max_nodes, max_depth=5)
        chunks = list(
            client.generate([("user", asked.prompt)], max_tokens=_MAX_TOKENS, speculation=options, step_details=True)
        )
    print(picture(max(chunks, key=_num_accepted), marks))


def _num_accepted(chunk: Chunk) -> tuple[int, int]:
    nodes = () if chunk.step_details is None else chunk.step_details.nodes
    return sum(node.is_accepted for node in nodes), len({node.drafted_by for node in nodes})


def picture(chunk: Chunk, marks: SsmMarks) -> str:
    """One step's tree, with its style in it."""
    answer = Answer(last_tree=chunk.step_details, own_token=chunk.tokens[-1])
    svg = re.search(r"<svg.*</svg>", tree_html(answer, marks), re.DOTALL)
    if svg is None:
        raise SystemExit("nothing was drafted: ask a router with --tree-policy static")
    style = _STYLE.read_text()
    # The first of the two sets: the light one.
    colours = re.findall(r"--sg-[\w-]+: [^;]+;", style.partition("}")[0])
    fonts = "--font: sans-serif; --font-mono: monospace;"
    rules = f"svg {{ {' '.join(colours)} {fonts} background: var(--sg-ground); }} {' '.join(_RULES.findall(style))}"
    return (
        svg[0]
        .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        .replace(">", f"><style>{rules}</style>", 1)
    )


if __name__ == "__main__":
    main()
