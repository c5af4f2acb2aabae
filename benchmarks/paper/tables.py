"""From recordings to the paper's tables: table 1, how often the verifier's token is among k candidates; tables 2 and 3, tokens a step.

A table is rows of five values: k or the tree's width from 1 to 5. Rules are named by who accepts and how the candidates were chosen:
"ranked" are the draft's likeliest, "drawn" independent drawings from it, "with noise" ranked with the verifier's own noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.paper.recordings import Ints, Recording
from benchmarks.paper.rules import (
    Probs,
    Rule,
    Tree,
    expected_num_steps,
    multi_step,
    naive,
    num_accepted_probs,
    num_followed,
)
from benchmarks.paper.trees import DEPTH, MAX_WIDTH, NUM_INNER_NODES, nodes_of_width, parents_of_width

WIDTHS = range(1, MAX_WIDTH + 1)
OURS_RANKED, OURS_NOISED, OURS_DRAWN = "ours, ranked", "ours, with noise", "ours, drawn"
MULTI_STEP, NAIVE = "multi-step, drawn", "naive, drawn"
_RULES: Mapping[str, Rule] = {MULTI_STEP: multi_step, NAIVE: naive}


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: ``values[k - 1]``, all outputs of a prompt set together."""

    sampling: str
    """``greedy`` or ``sampled``."""
    rule: str
    prompt_set: str
    values: tuple[float, ...]


def success_rates(prompt_set: str, sampling: str, recordings: Sequence[Recording]) -> list[Cell]:
    """Table 1: with what probability a token is accepted when k candidates are there, over all places of the outputs."""
    found = [
        Cell(sampling, rule, prompt_set, tuple(_mean([_hits(r.output_ids, first(r), k) for r in recordings]) for k in WIDTHS))
        for rule, first in _firsts(sampling).items()
    ]  # fmt: skip
    if sampling == "sampled":
        for name, rule in _RULES.items():
            values = [_mean([_root_acceptance(recording, rule, k) for recording in recordings]) for k in WIDTHS]
            found.append(Cell(sampling, name, prompt_set, tuple(values)))
    return found


def tokens_per_step(prompt_set: str, sampling: str, recordings: Sequence[Recording]) -> list[Cell]:
    """Tables 2 and 3: tokens that a step emits, the bonus token counted, in a decoding loop along the outputs."""
    num_tokens = sum(len(recording.output_ids) for recording in recordings)

    def cell(rule: str, num_steps: Callable[[Recording, int], float]) -> Cell:
        values = [num_tokens / sum(num_steps(recording, width) for recording in recordings) for width in WIDTHS]
        return Cell(sampling, rule, prompt_set, tuple(values))

    found = [cell(rule, _following(trees)) for rule, trees in _trees(sampling).items()]
    if sampling == "sampled":
        found += [cell(name, _by_rule(rule)) for name, rule in _RULES.items()]
    return found


def mean_rest(recordings: Sequence[Recording]) -> tuple[float, float]:
    """The mass outside the tokens kept, of target and draft: what isn't known of the distributions."""
    target, draft = np.concatenate([recording.rest.reshape(-1, 2) for recording in recordings]).mean(axis=0)
    return float(target), float(draft)


def _firsts(sampling: str) -> Mapping[str, Callable[[Recording], Ints]]:
    by_rule: dict[str, Callable[[Recording], Ints]] = {OURS_RANKED: lambda recording: recording.ranked_first}
    if sampling == "sampled":
        by_rule[OURS_NOISED] = lambda recording: recording.noised_first
        by_rule[OURS_DRAWN] = lambda recording: recording.drawn_first
    return by_rule


def _trees(sampling: str) -> Mapping[str, Callable[[Recording], Ints]]:
    by_rule: dict[str, Callable[[Recording], Ints]] = {OURS_RANKED: lambda recording: recording.ranked}
    if sampling == "sampled":
        by_rule[OURS_NOISED] = lambda recording: recording.noised
        by_rule[OURS_DRAWN] = lambda recording: recording.drawn
    return by_rule


def _mean(parts: Sequence[Sequence[float]]) -> float:
    return float(np.concatenate([np.asarray(part, float) for part in parts]).mean())


def _hits(output_ids: Ints, first: Ints, k: int) -> list[float]:
    return [float(token in candidates[:k]) for token, candidates in zip(output_ids, first, strict=True)]


def _following(trees: Callable[[Recording], Ints]) -> Callable[[Recording, int], float]:
    """The walk along the output itself."""

    def num_steps(recording: Recording, width: int) -> float:
        nodes, parents = nodes_of_width(width), parents_of_width(width)
        output = recording.output_ids.tolist()
        step, place = 0, 0
        tokens = trees(recording)
        while place < len(output):
            place += 1 + num_followed(tokens[place, nodes].tolist(), parents, output[place : place + DEPTH])
            step += 1
        return step

    return num_steps


def _by_rule(rule: Rule) -> Callable[[Recording, int], float]:
    def num_steps(recording: Recording, width: int) -> float:
        return expected_num_steps(
            [num_accepted_probs(_tree(recording, place, width), rule) for place in range(len(recording.output_ids))]
        )

    return num_steps


def _tree(recording: Recording, place: int, width: int) -> Tree:
    """The drawn tree as the rules take it: tokens are places among those that the parent's node keeps.

    A node that several drawings share was computed for each of them, with the same result.
    """
    nodes, parents = nodes_of_width(width), parents_of_width(width)
    tokens = recording.drawn[place]
    local = [0] + [
        _place(recording, place, nodes[parent], tokens[node])
        for node, parent in zip(nodes[1:], parents[1:], strict=True)
    ]
    inner = [node for node in nodes if node < NUM_INNER_NODES]
    distributions = [_distributions(recording, place, node) for node in inner]
    return Tree(local, parents, [target for target, _ in distributions], [draft for _, draft in distributions])


def _root_acceptance(recording: Recording, rule: Rule, k: int) -> list[float]:
    found = []
    for place in range(len(recording.output_ids)):
        target, draft = _distributions(recording, place, 0)
        drafted = [_place(recording, place, 0, token) for token in recording.drawn_first[place, :k]]
        found.append(sum(rule(target, draft, drafted).values()))
    return found


def _place(recording: Recording, place: int, node: int, token: int) -> int:
    (index,) = np.flatnonzero(recording.token_ids[place, node] == token)
    return int(index)


def _distributions(recording: Recording, place: int, node: int) -> tuple[Probs, Probs]:
    """Of target and draft; the last entry is the rest."""
    target, draft = (
        np.append(np.exp(log_probs[place, node].astype(np.float64)), recording.rest[place, node, index])
        for index, log_probs in enumerate((recording.target_log_probs, recording.draft_log_probs))
    )
    return target / target.sum(), draft / draft.sum()
