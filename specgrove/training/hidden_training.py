"""Trains an SSM that reads an LLM's hidden states, on recorded dialogues (arXiv 2503.01840, without its loss on features).

The last passes simulate several drafted steps in a row, each of which reads the state that the step before it gave. Called by ``stages``.
Invariant: a run that was killed goes on from its last checkpoint to the same bits, on the same machine with as many threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from specgrove.models.hidden_state.attention import UnrolledAttention, window_mask
from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.training import closed_form
from specgrove.training.hidden_data import HiddenBatch, HiddenDialogues
from specgrove.training.muon import Muon
from specgrove.training.subset_loss import sampled_rows, subset_loss
from specgrove.training.target import TargetEnds

CHECKPOINT_EVERY_S = 60.0
REPORT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class HiddenTrainingSettings:
    """Learning rates rise in ``num_warmup_steps``, and fall by a cosine to zero from ``flat_share`` of the steps on."""

    num_passes: float = 3.0  # over the data
    num_unrolled: int = 3  # drafted steps in a row that the last passes simulate
    unrolled_passes: float = 1.0
    tokens_per_step: int = 2048
    matrix_learning_rate: float = 1.5e-3  # by Muon
    map_learning_rate: float = 2e-4  # by AdamW, of what the closed form found: Muon would lose it
    norm_learning_rate: float = 5e-4  # by AdamW
    weight_decay: float = 0.05  # of matrices
    num_warmup_steps: int = 20
    flat_share: float = 0.3
    hard_share: float = 0.2  # of the target: all on the teacher's first choice, which is what greedy decoding asks for
    num_sampled_rows: int = 2048  # of the head, beside those that a batch's teachers name
    max_skipped: int = 64  # tokens that half of the dialogues lack at their beginnings
    start_rows: int = 60_000  # that the closed form looks at
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LossPoint:
    """What the chart of the loss shows: nats per token, first step's, after so many steps."""

    step: int
    loss: float


class HiddenTraining:
    """One run: the module, its optimisers and where they are."""

    def __init__(
        self,
        module: HiddenStateModule,
        data: HiddenDialogues,
        ends: TargetEnds,
        settings: HiddenTrainingSettings,
        position_weights: list[torch.Tensor] | None = None,
        *,
        has_start: bool = False,
    ) -> None:
        """``position_weights``: for each dialogue, of its tokens ``[length]``; how much the guess after each counts.

        ``has_start``: the module was trained before, and goes on as it is; else it starts in closed form.
        """
        self.module, self._data, self._ends, self._settings = module, data, ends, settings
        self._weights, self._has_start = position_weights, has_start
        self._token_mass: npt.NDArray[np.float64] = data.token_mass(len(ends.head))
        matrices = [p for name, p in module.named_parameters() if name.startswith("layer.") and p.ndim == 2]
        maps = [p for name, p in module.named_parameters() if not name.startswith("layer.") and p.ndim == 2]
        norms = [p for p in module.parameters() if p.ndim == 1]
        self._by_adam = [*maps, *norms]
        self._optimizers = [
            Muon(matrices, settings.matrix_learning_rate, weight_decay=settings.weight_decay),
            torch.optim.AdamW(
                [
                    {"params": maps, "lr": settings.map_learning_rate},
                    {"params": norms, "lr": settings.norm_learning_rate},
                ],
                betas=(0.9, 0.98),
                weight_decay=0.0,
            ),
        ]
        self._rates = [group["lr"] for optimizer in self._optimizers for group in optimizer.param_groups]
        self.num_steps = 0
        self.curve: list[LossPoint] = []

    @property
    def num_steps_in_all(self) -> int:
        """Of the whole run."""
        tokens = self._settings.num_passes * self._data.num_tokens
        return max(1, math.ceil(tokens / self._settings.tokens_per_step))

    def run(
        self, checkpoint: Path, progress: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """To the end, from ``checkpoint`` if it is there; it stays."""
        if checkpoint.is_file():
            self._restore(checkpoint)
            progress(f"train: going on after step {self.num_steps}")
        elif not self._has_start:
            generator = torch.Generator().manual_seed(self._settings.seed)
            found = closed_form.start(self.module, self._data, self._ends, self._settings.start_rows, generator)
            progress(
                f"train: the closed form explains {found.from_hidden_states:.2f} of the next state, "
                f"{found.from_own_states:.2f} from the last state alone"
            )
        started = reported = saved = clock()
        first_step, num_all = self.num_steps, self.num_steps_in_all
        was_unrolled = self._is_unrolled(self.num_steps / num_all)
        while self.num_steps < num_all:
            is_unrolled = self._is_unrolled(self.num_steps / num_all)
            if is_unrolled and not was_unrolled:  # what these take, the steps before don't tell
                started, first_step, was_unrolled = clock(), self.num_steps, True
            loss = self._step(self.num_steps / num_all)
            self.num_steps += 1
            self.curve.append(LossPoint(self.num_steps, loss))
            now = clock()
            if now - reported > REPORT_EVERY_S:
                recent = float(np.mean([point.loss for point in self.curve[-50:]]))
                per_step = (now - started) / (self.num_steps - first_step)
                left_s = (num_all - self.num_steps) * per_step * self._slowness_left(is_unrolled)
                progress(
                    f"train: step {self.num_steps} of {num_all}, loss {recent:.3f}, "
                    f"{self._settings.tokens_per_step / per_step:.0f} tokens/s, about {left_s:.0f} s left"
                )
                reported = now
            if now - saved > CHECKPOINT_EVERY_S:
                self._save(checkpoint)
                saved = now
        self._save(checkpoint)

    def _is_unrolled(self, share_done: float) -> bool:
        """Whether a step simulates several drafted ones in a row."""
        return share_done >= 1 - self._settings.unrolled_passes / self._settings.num_passes

    def _slowness_left(self, is_unrolling: bool) -> float:
        """Unrolled steps take about as many times longer as there are steps in them; those that were timed are such, or not."""
        settings, done = self._settings, self.num_steps / self.num_steps_in_all
        plain = max(0.0, 1 - settings.unrolled_passes / settings.num_passes - done)
        unrolled = 1 - done - plain
        weight = 1.0 if is_unrolling else 0.5 + 0.6 * settings.num_unrolled
        return (plain + weight * unrolled) / max(1e-9, plain + unrolled)

    def _step(self, share_done: float) -> float:
        settings = self._settings
        rng = np.random.default_rng((settings.seed, self.num_steps))
        is_unrolled = self._is_unrolled(share_done)
        self._set_rates(share_done)
        indices = self._data.choose(settings.tokens_per_step, rng)
        skipped = [self._skipped(index, rng) for index in indices]
        batch = self._data.batch(indices, skipped)
        weights = batch.is_made.float()
        if self._weights is not None:
            for row, index, skip in zip(weights, indices, skipped, strict=True):
                own = self._weights[index][skip:]
                row[: len(own)] *= own
        losses = losses_of(
            self.module,
            batch,
            weights,
            self._ends,
            settings,
            self._token_mass,
            settings.num_unrolled if is_unrolled else 1,
            rng,
        )
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._by_adam, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        return float(losses[0].detach())

    def _skipped(self, index: int, rng: np.random.Generator) -> int:
        most = min(self._settings.max_skipped, self._data.length(index) // 3)
        return int(rng.integers(0, most + 1)) if rng.random() < 0.5 else 0

    def _set_rates(self, share_done: float) -> None:
        settings = self._settings
        warmth = min(1.0, (self.num_steps + 1) / settings.num_warmup_steps)
        share = max(0.0, (share_done - settings.flat_share) / (1 - settings.flat_share))
        factor = warmth * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor

    def _save(self, path: Path) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "num_steps": self.num_steps,
            "num_reads": self._data.num_reads,
            "curve": [(point.step, point.loss) for point in self.curve],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".partial")
        torch.save(state, temporary)
        temporary.rename(path)

    def _restore(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        self.module.load_state_dict(state["module"])
        for optimizer, optimizer_state in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self._data.restore(state["num_reads"])
        self.num_steps = state["num_steps"]
        self.curve = [LossPoint(*point) for point in state["curve"]]


def losses_of(
    module: HiddenStateModule,
    batch: HiddenBatch,
    weights: torch.Tensor,
    ends: TargetEnds,
    settings: HiddenTrainingSettings,
    token_mass: npt.NDArray[np.float64],
    num_unrolled: int,
    rng: np.random.Generator,
) -> list[torch.Tensor]:
    """The loss of each of the drafted steps in a row. ``weights`` ``[num_dialogues, len]``: of the guess at the token after each."""
    targets = batch.top_probs * (1 - settings.hard_share)
    targets[..., 0] += settings.hard_share
    head = sampled_rows(ends.head, batch.top_ids.unique(), token_mass, settings.num_sampled_rows, rng)  # type: ignore[no-untyped-call]
    losses = []
    for step, outputs in enumerate(unrolled_outputs(module, batch, ends.embedding, num_unrolled)):
        first = 1 + step  # row i guesses what follows token i + 1 + step
        chosen = weights[:, first:] > 0
        kept = outputs[:, : chosen.shape[1]][chosen]
        told = (batch.top_ids[:, first:][chosen], targets[:, first:][chosen], weights[:, first:][chosen])
        losses.append(subset_loss(kept, head, *told))
    return losses


def unrolled_outputs(
    module: HiddenStateModule, batch: HiddenBatch, embedding: torch.Tensor, num_steps: int
) -> list[torch.Tensor]:
    """What the head reads after each of ``num_steps`` drafted steps along the dialogue: ``[num_dialogues, len, size]`` each.

    Row i of step s has read the LLM's states up to token i and the tokens up to i + 1 + s. Rows whose tokens don't exist are of no use.
    """
    num_rows = batch.token_ids.shape[1]
    padded = torch.nn.functional.pad(batch.token_ids, (0, num_steps + 1))
    attend = UnrolledAttention(window_mask(num_rows, module.spec.hidden_window))
    positions = torch.arange(num_rows)
    outputs: list[torch.Tensor] = []
    states = torch.zeros(())
    for step in range(num_steps):
        embeddings = embedding[padded[:, 1 + step : 1 + step + num_rows]]
        given = module.of_own_states(states, embeddings) if step else module.of_hidden_states(batch.hidden, embeddings)
        states = module(given, positions + step, attend)
        outputs.append(module.outputs(states))
    return outputs
