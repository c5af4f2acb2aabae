"""How good a hidden-state SSM is on the LLM's own greedy answers. Used by ``specgrove ssm evaluate`` and for model cards.

Two views: how often its choices are right, place by place; and a decoding loop with best-first trees, which lands on hard places more often
than a mean over places says. Answers are those of ``answers``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from specgrove.models.hidden_state.attention import CachedAttention
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.training.hidden_data import HiddenBatch, HiddenDialogues
from specgrove.training.hidden_training import unrolled_outputs
from specgrove.training.target import TargetEnds

NUM_STEPS = 4
TREE_ROWS = (4, 8, 16)  # of a verification, its last committed token included
_MAX_DEPTH = 6
_NUM_CHILDREN = 4
_NUM_AMONG = 4
_NUM_BINS = 10


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Shares of places, and tokens per verification of a greedy decoding loop by the verification's rows."""

    num_positions: int
    first_choice: float
    among_four: float
    by_step: tuple[float, ...]  # right, given that all steps before it were
    calibration_errors: tuple[
        float, ...
    ]  # by step: how far probabilities of the first four are off on average (ECE, ten bins)
    tokens_per_verification: dict[int, float]


def measured(
    module: HiddenStateModule,
    answers: HiddenDialogues,
    ends: TargetEnds,
    progress: Callable[[str], None] = lambda line: None,
) -> Acceptance:
    """On all dialogues of ``answers``, which must be greedy."""
    counts = _StepCounts()
    for index in range(len(answers)):
        counts.add(module, answers.batch([index]), ends)
    lengths = {}
    for num_rows in TREE_ROWS:
        progress(f"evaluate: trees of {num_rows} rows")
        walks = [_Walk(module, answers.batch([index]), ends).run(num_rows - 1) for index in range(len(answers))]
        num_tokens, num_verifications = map(sum, zip(*walks, strict=True))
        lengths[num_rows] = num_tokens / max(1, num_verifications)
    return counts.acceptance(lengths)


class _StepCounts:
    """Sums over dialogues."""

    def __init__(self) -> None:
        self._num_among = 0
        self._right = [0] * NUM_STEPS
        self._asked = [0] * NUM_STEPS
        # By step and tenth of probability: candidates, the sum of their probabilities, and how many were right.
        self._bins = torch.zeros(NUM_STEPS, _NUM_BINS, 3, dtype=torch.float64)

    @torch.no_grad()
    def add(self, module: HiddenStateModule, batch: HiddenBatch, ends: TargetEnds) -> None:
        """One dialogue."""
        length = batch.token_ids.shape[1]
        alive = torch.ones(length, dtype=torch.bool)
        for step, outputs in enumerate(unrolled_outputs(module, batch, ends.embedding, NUM_STEPS)):
            num_rows = length - 1 - step
            if num_rows < 1:
                return
            # Where drafting could begin: the token that the first step guesses is the LLM's.
            is_asked = batch.is_made[0, 1 + step :] & batch.is_made[0, 1 : 1 + num_rows] & alive[:num_rows]
            logits = outputs[0, :num_rows] @ ends.head.T
            log_probs = (logits / module.spec.calibration.scale(step + 1)).log_softmax(dim=-1)
            values, best = log_probs.topk(min(_NUM_AMONG, len(ends.head)), dim=-1)
            told = batch.top_ids[0, 1 + step :, :1]  # greedy: the teacher's first choice
            is_right = best[:, 0] == told[:, 0]
            self._count(step, values[is_asked].exp(), (best == told)[is_asked])
            self._asked[step] += int(is_asked.sum())
            self._right[step] += int((is_right & is_asked).sum())
            if step == 0:
                self._num_among += int(((best == told).any(dim=-1) & is_asked).sum())
            alive = alive[:num_rows] & is_right

    def _count(self, step: int, probs: torch.Tensor, is_right: torch.Tensor) -> None:
        """``[num_places, num_candidates]`` each."""
        bins = (probs.flatten() * _NUM_BINS).long().clamp_max(_NUM_BINS - 1)
        told = torch.stack([torch.ones_like(probs), probs, is_right.float()], dim=-1).flatten(0, 1).double()
        self._bins[step].index_add_(0, bins, told)

    def acceptance(self, tokens_per_verification: dict[int, float]) -> Acceptance:
        asked = [max(1, count) for count in self._asked]
        by_step = tuple(right / count for right, count in zip(self._right, asked, strict=True))
        counts, sums, rights = self._bins.unbind(-1)
        errors = (sums - rights).abs().sum(-1) / counts.sum(-1).clamp_min(1)
        return Acceptance(
            self._asked[0],
            by_step[0],
            self._num_among / asked[0],
            by_step,
            tuple(errors.tolist()),
            tokens_per_verification,
        )


@dataclass(slots=True)
class _Node:
    token_id: int
    parent: int  # -1: the last committed token
    depth: int
    log_prob: float  # of the path
    row: int = -1  # among the tree's rows in the attention's cache, once it has been expanded


class _Walk:
    """A greedy decoding loop over one dialogue."""

    def __init__(self, module: HiddenStateModule, batch: HiddenBatch, ends: TargetEnds) -> None:
        self._module, self._batch, self._ends = module, batch, ends
        self._attend = CachedAttention()
        self._num_true = 0  # pairs in the cache
        self._output, self._state = torch.zeros(0), torch.zeros(0)

    @torch.no_grad()
    def run(self, num_nodes: int) -> tuple[int, int]:
        """Tokens and verifications, with trees of so many nodes."""
        truth = self._batch.top_ids[0, :, 0].tolist()  # what follows each token
        made = self._batch.is_made[0].tolist()
        place = next((index for index, is_made in enumerate(made) if is_made), len(made))  # the last committed token
        place += 1  # the prompt's own verdict gives the first token
        num_tokens = num_verifications = 0
        while place < len(made):
            self._read_true(place)
            nodes = self._draft(num_nodes)
            num_accepted, parent = 0, -1
            while place + num_accepted < len(made):
                token_id = truth[place + num_accepted]
                parent = next(
                    (i for i, node in enumerate(nodes) if node.parent == parent and node.token_id == token_id), -2
                )
                if parent == -2:
                    break
                num_accepted += 1
            place += num_accepted + 1
            num_tokens += num_accepted + 1
            num_verifications += 1
        return num_tokens, num_verifications

    def _read_true(self, place: int) -> None:
        """Pairs up to the one whose embedding is that of the token at ``place``."""
        self._attend.truncate(self._num_true)
        rows = torch.arange(self._num_true, place)
        seen, window = torch.arange(place), self._module.spec.hidden_window
        distance = rows[:, None] - seen
        self._attend.mask = (distance >= 0) & (distance < window)
        embeddings = self._ends.embedding[self._batch.token_ids[0, rows + 1]]
        given = self._module.of_hidden_states(self._batch.hidden[0, rows], embeddings)
        states = self._module(given, rows, self._attend)
        self._num_true = place
        self._state, self._output = states[-1], self._module.outputs(states[-1])

    def _draft(self, num_nodes: int) -> list[_Node]:
        """The likeliest nodes, parents before children."""
        root = _Node(-1, -1, 0, 0.0)
        nodes = self._children([root], [-1], self._output[None])
        states: list[torch.Tensor] = []  # of expanded nodes, by row
        for depth in range(1, min(_MAX_DEPTH, num_nodes)):
            best = sorted(range(len(nodes)), key=lambda index: -nodes[index].log_prob)[:num_nodes]
            level = [index for index in best if nodes[index].depth == depth]
            if not level:
                break
            outputs = self._expand(nodes, level, states)
            nodes += self._children([nodes[index] for index in level], level, outputs)
        kept = sorted(sorted(range(len(nodes)), key=lambda index: -nodes[index].log_prob)[:num_nodes])
        new = {index: place for place, index in enumerate(kept)}
        return [_Node(nodes[i].token_id, new.get(nodes[i].parent, -1), nodes[i].depth, nodes[i].log_prob) for i in kept]

    def _children(self, parents: list[_Node], indices: list[int], outputs: torch.Tensor) -> list[_Node]:
        logits = outputs @ self._ends.head.T
        depth = parents[0].depth + 1
        log_probs, ids = (
            (logits / self._module.spec.calibration.scale(depth))
            .log_softmax(-1)
            .topk(min(_NUM_CHILDREN, logits.shape[-1]))
        )
        return [
            _Node(token_id, index, depth, parent.log_prob + log_prob)
            for parent, index, row_ids, row_log_probs in zip(
                parents, indices, ids.tolist(), log_probs.tolist(), strict=True
            )
            for token_id, log_prob in zip(row_ids, row_log_probs, strict=True)
        ]

    def _expand(self, nodes: list[_Node], level: list[int], states: list[torch.Tensor]) -> torch.Tensor:
        """What the head reads at the nodes of one level; their states are added."""
        num_before = len(states)
        mask = torch.zeros(len(level), self._num_true + num_before + len(level), dtype=torch.bool)
        mask[:, max(0, self._num_true - self._module.spec.hidden_window) : self._num_true] = True
        parents = []
        for row, index in enumerate(level):
            nodes[index].row = num_before + row
            parent = nodes[index].parent
            parents.append(self._state if parent < 0 else states[nodes[parent].row])
            while index >= 0:
                mask[row, self._num_true + nodes[index].row] = True
                index = nodes[index].parent
        self._attend.mask = mask
        embeddings = self._ends.embedding[torch.tensor([nodes[index].token_id for index in level])]
        positions = torch.tensor([self._num_true - 1 + nodes[index].depth for index in level])
        level_states = self._module(
            self._module.of_own_states(torch.stack(parents), embeddings), positions, self._attend
        )
        states += list(level_states)
        return self._module.outputs(level_states)
