"""A runner whose models never agree, made to agree as a recorded trace says: passes really run, then their choices are rewritten.

Wrapped around the runner of the LLM service by ``benchmarks.gpu.replayed_llm_service``. Of each tree of a pass the choices along a longest
path of it agree for as many tokens as the trace's next number says, and no further. Passes without trees are left as they are.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.trace import Trace
from specgrove.kernels.rows import PassRows
from specgrove.program.backend import PassOutput
from specgrove.runtime.model_runner import Runner


@dataclass(frozen=True, slots=True)
class PassTree:
    """One tree of a pass. ``asked`` are the places of its nodes among the asked rows; parents are node numbers, -1 the root's."""

    asked: tuple[int, ...]
    token_ids: tuple[int, ...]
    parents: tuple[int, ...]

    def longest_path(self) -> list[int]:
        """The nodes from the root to the first of the deepest ones."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        path = [depths.index(max(depths))]
        while self.parents[path[0]] >= 0:
            path.insert(0, self.parents[path[0]])
        return path


def trees_of(rows: PassRows) -> list[PassTree]:
    """The trees that a pass was asked about, from its masks: a tree's rows have a bit for themselves and for each ancestor."""
    by_sequence: dict[int, list[tuple[int, int, int]]] = {}
    num_words = rows.num_mask_words
    for place, row in enumerate(rows.asked_rows):
        words = rows.row_masks[row * num_words : (row + 1) * num_words]
        mask = sum((word & (1 << 64) - 1) << 64 * number for number, word in enumerate(words))
        if mask:
            by_sequence.setdefault(rows.row_seq[row], []).append((place, rows.token_ids[row], mask))
    found = []
    for nodes in by_sequence.values():
        asked, token_ids, masks = zip(*nodes, strict=True)
        parents = tuple((mask & ~(1 << node)).bit_length() - 1 for node, mask in enumerate(masks))
        found.append(PassTree(asked, token_ids, parents))
    return found


def agree(tree: PassTree, choices: list[int], num_accepted: int, vocab_size: int) -> int:
    """Rewrites the choices of a tree in place, so that just so many of its tokens are accepted, or all of a path; how many."""
    path = tree.longest_path()
    num_accepted = min(num_accepted, len(path) - 1)
    for node, child in itertools.pairwise(path[: num_accepted + 1]):
        choices[tree.asked[node]] = tree.token_ids[child]
    last = path[num_accepted]
    children = {tree.token_ids[node] for node, parent in enumerate(tree.parents) if parent == last}
    place = tree.asked[last]
    while choices[place] in children:  # else one more would be accepted
        choices[place] = (choices[place] + 1) % vocab_size
    return num_accepted


class ReplayedRunner:
    """See ``Runner``; for greedy requests. All but ``finish`` is the inner runner's."""

    def __init__(self, inner: Runner, trace: Trace) -> None:
        self._inner = inner
        self._trace = trace
        self._batches: deque[PassRows] = deque()
        self._num_trees = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def start(self, rows: PassRows) -> None:
        """See ``Runner``."""
        self._inner.start(rows)
        self._batches.append(rows)

    def finish(self) -> PassOutput:
        """See ``Runner``. Raises ``ValueError`` for requests that aren't greedy: logits are not rewritten."""
        output = self._inner.finish()
        rows = self._batches.popleft()
        trees = [tree for tree in trees_of(rows) if len(tree.asked) > 1]
        if not trees:
            return output
        choices = self._choices_of(output, rows)
        for tree in trees:
            agree(tree, choices, self._trace.number(self._num_trees), self._inner.spec.vocab_size)
            self._num_trees += 1
        return PassOutput(choices, output.logits[:0])

    def _choices_of(self, output: PassOutput, rows: PassRows) -> list[int]:
        if any(choice is None or choice.params.temperature > 0 for choice in rows.choices):
            raise ValueError("only greedy requests without log-probabilities can be replayed")
        if output.choices:
            return list(output.choices)
        greedy: list[int] = output.logits.argmax(dim=1).tolist()  # a pass that is too large for a graph
        return greedy

    def discard(self) -> None:
        """See ``Runner``."""
        self._batches.clear()
        self._inner.discard()
