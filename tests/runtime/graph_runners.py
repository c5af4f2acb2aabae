"""A runner that runs by graphs beside one that doesn't, and passes for both."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from specgrove.kernels.device_memory import PassLimits
from specgrove.kernels.rows import HAS_LOGITS, PassRows
from specgrove.kernels.sampling import ChoiceParams, KnownToken, RowChoice, choose
from specgrove.program.backend import PassOutput
from specgrove.program.device_weights import DeviceWeights
from specgrove.program.graphs import Graphs
from specgrove.program.loading import load_decoder
from specgrove.runtime.graph_runner import GraphRunner
from specgrove.runtime.known_tokens import log_probs_of
from specgrove.runtime.model_runner import ModelRunner
from specgrove.runtime.pass_builder import PassBuilder, TreeRows
from tests.models.families import DEVICE_VARIANTS, VOCAB_SIZE, save_tiny

NUM_SLOTS = 200
LIMITS = PassLimits(max_num_rows=10, max_num_asked=5, max_model_len=64, num_slots=NUM_SLOTS)


class Both:
    """The same model with graphs, and without: every pass goes through both."""

    def __init__(self, folder: Path, device: torch.device, graphs: Graphs, variant: str = "llama") -> None:
        save_tiny(variant, folder, DEVICE_VARIANTS)
        self.progress: list[tuple[int, int]] = []
        self.with_graphs = GraphRunner(
            self._decoder(folder, device), LIMITS, graphs, lambda done, total: self.progress.append((done, total))
        )
        self.without = ModelRunner(self._decoder(folder, device), NUM_SLOTS)

    def _decoder(self, folder: Path, device: torch.device):  # type: ignore[no-untyped-def]
        return load_decoder(folder, torch.bfloat16, store=DeviceWeights(device, has_kernels=True))

    def check(self, rows: PassRows) -> None:
        known, rows.known = rows.known, {}
        expected = self.without.forward(rows)  # logits of all asked rows
        rows.known = known
        self.with_graphs.start(rows)
        output = self.with_graphs.finish()
        self._check_known(expected, known, output)
        expected = expected[[place for place in range(len(expected)) if place not in known]]
        choices = [choice for place, choice in enumerate(rows.choices) if place not in known]
        with_logits = [row for row, choice in enumerate(choices) if choice is None or not output.choices]
        assert torch.equal(output.logits, expected[with_logits])
        if output.choices:
            wanted = [
                HAS_LOGITS if choice is None else choose(logits, choice.params, choice.position)
                for logits, choice in zip(expected, choices, strict=True)
            ]
            assert [choice for place, choice in enumerate(output.choices) if place not in known] == wanted

    def _check_known(self, logits: torch.Tensor, known: Mapping[int, KnownToken], output: PassOutput) -> None:
        for (place, token), found in zip(known.items(), output.log_probs, strict=True):
            wanted = log_probs_of(logits[place], token.token_id, token.num_top)
            assert found is not None
            assert (found.rank, [token_id for token_id, _ in found.top]) == (wanted.rank, [t for t, _ in wanted.top])
            assert found.log_prob == pytest.approx(wanted.log_prob, abs=1e-5)
            assert [value for _, value in found.top] == pytest.approx([value for _, value in wanted.top], abs=1e-5)
            # A token that is the most probable one is so to whoever compares the numbers.
            if found.rank <= len(found.top):
                assert found.log_prob == found.top[found.rank - 1][1]


def random_pass(rng: random.Random, slots: list[int], contexts: dict[int, list[int]]) -> PassRows:
    """Sequences that go on by a chunk, and trees after others, with and without choices."""
    builder = PassBuilder()
    for sequence in rng.sample(range(6), rng.choice([1, 1, 2, 3])):
        context = contexts.setdefault(sequence, [])
        if len(context) < 4 or rng.random() < 0.3:
            chunk = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 2, 4]))]
            context.extend(slots.pop() for _ in chunk)
            known = {
                place: KnownToken(rng.randrange(VOCAB_SIZE), rng.choice([0, 1, 5]))
                for place in range(len(chunk))
                if rng.random() < 0.3
            }
            builder.add(context, chunk, chunk_logits=not known and rng.random() < 0.5, known=known)
            continue
        num_nodes = rng.choice([1, 1, 2, 3])
        tree = TreeRows(
            [rng.randrange(VOCAB_SIZE) for _ in range(num_nodes)],
            [rng.randrange(-1, node) for node in range(num_nodes)],
            [slots.pop() for _ in range(num_nodes)],
        )
        params = ChoiceParams(temperature=rng.choice([0.0, 0.8]), seed=rng.randrange(1 << 64))
        choices = [RowChoice(params, len(context) + 1) for _ in range(num_nodes)]
        builder.add(context, (), tree, choices=choices if rng.random() < 0.7 else None)
        slots.extend(tree.slots)
        rng.shuffle(slots)
    return builder.build()
