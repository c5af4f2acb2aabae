"""From a trained module to the folder that is served: candidate head, calibration, weights, and a model card beside them.

Called by ``stages``. Invariant: all that the card says was measured on the weights as they are written, in bfloat16.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from specgrove.models.hidden_state.module import HiddenStateModule
from specgrove.models.hidden_state.own_folder import load_own_folder, save_own_folder
from specgrove.training import candidate_head
from specgrove.training.acceptance import NUM_STEPS, Acceptance
from specgrove.training.calibration import calibrated
from specgrove.training.hidden_data import HiddenDialogues
from specgrove.training.hidden_training import LossPoint, unrolled_outputs
from specgrove.training.target import TargetEnds

CHART_NAME = "loss.svg"
_FIT_ROWS = 20_000
_DIALOGUES_AT_ONCE = 8
_FLOOR_SHARE = 0.4  # of the measured first choices: what a working SSM exceeds on other texts, too, and one that is wired wrongly does not


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What a model card tells."""

    target_name: str
    num_tokens: int
    num_made: int
    num_passes: float
    prompt_sources: tuple[str, ...]
    minutes: float
    machine: str
    boosted_after: int = 0  # SSMs before this one


def finished(
    module: HiddenStateModule,
    data: HiddenDialogues,
    ends: TargetEnds,
    rank: int,
    num_candidates: int,
    vocab_sha256: str,
) -> tuple[HiddenStateModule, float]:
    """The module with its candidate head and calibration, and how often the candidates hold the best id on held-out text."""
    spec = dataclasses.replace(
        module.spec,
        candidate_rank=min(rank, module.spec.hidden_size),
        num_candidates=num_candidates,
        vocab_sha256=vocab_sha256,
    )
    held_out = range(data.num_held_out) if data.num_held_out else range(min(_DIALOGUES_AT_ONCE, len(data)))
    batches = [
        data.batch(held_out[first : first + _DIALOGUES_AT_ONCE])
        for first in range(0, len(held_out), _DIALOGUES_AT_ONCE)
    ]
    spec = dataclasses.replace(spec, calibration=calibrated(module, batches, ends, NUM_STEPS))
    whole = HiddenStateModule(spec)
    whole.load_state_dict(module.state_dict(), strict=False)
    candidate_head.fit(whole, ends.head, _outputs(module, data, range(data.num_held_out, len(data)), ends, _FIT_ROWS))
    found = candidate_head.recall(whole, ends.head, _outputs(module, data, held_out, ends, _FIT_ROWS))
    return whole, found


@torch.no_grad()
def _outputs(
    module: HiddenStateModule, data: HiddenDialogues, indices: range, ends: TargetEnds, num_rows: int
) -> torch.Tensor:
    """What the head reads, of the first two drafted steps: about ``num_rows``."""
    rows: list[torch.Tensor] = []
    num = 0
    for first in range(0, len(indices), _DIALOGUES_AT_ONCE):
        batch = data.batch(indices[first : first + _DIALOGUES_AT_ONCE])
        for step, outputs in enumerate(unrolled_outputs(module, batch, ends.embedding, 2)):
            is_there = batch.is_made[:, 1 + step :]
            rows.append(outputs[:, : is_there.shape[1]][is_there])
            num += len(rows[-1])
        if num >= num_rows:
            break
    return torch.cat(rows)


def write(folder: Path, module: HiddenStateModule) -> HiddenStateModule:
    """Writes weights and configuration; the module as it was written."""
    save_own_folder(folder, module)
    return load_own_folder(folder)


def with_floor(module: HiddenStateModule, acceptance: Acceptance) -> HiddenStateModule:
    """The module that knows the first choices below which something must be wrong where it is served."""
    floor = round(_FLOOR_SHARE * acceptance.first_choice, 2)
    module.spec = dataclasses.replace(module.spec, first_choice_floor=floor)
    return module


def write_card(
    folder: Path, module: HiddenStateModule, facts: TrainingFacts, acceptance: Acceptance, recall: float
) -> None:
    """``README.md``."""
    spec = module.spec
    by_step = " | ".join(f"{share:.3f}" for share in acceptance.by_step)
    errors = " | ".join(f"{error:.3f}" for error in acceptance.calibration_errors)
    trees = " | ".join(f"{length:.2f}" for length in acceptance.tokens_per_verification.values())
    head_row = " | ".join(str(num_rows) for num_rows in acceptance.tokens_per_verification)
    sources = "\n".join(f"- {source}" for source in facts.prompt_sources) or "- none: the LLM invented all prompts"
    boosted = (
        ""
        if not facts.boosted_after
        else f"It was boosted: it learned most where the {facts.boosted_after} before it fail.\n"
    )
    layers = ", ".join(map(str, spec.hidden_layers))
    text = f"""# An SSM for {facts.target_name}

It reads the LLM's hidden states at the inputs of layers {layers} and shares its embedding and head. It serves no other LLM.
One layer, {spec.num_parameters / 1e6:.1f} M parameters of its own, bfloat16.

## Data
{facts.num_tokens:,} tokens of dialogues, {facts.num_made:,} of them made by the LLM: half greedy, half at temperatures from 0.6 to 1.0.
{facts.num_passes:g} passes, {facts.minutes:.0f} minutes of training on {facts.machine}.
{boosted}Prompts, beside those that the LLM invented:
{sources}

Whether the weights may be used and passed on goes by the licences of the LLM and of the prompts.

## Measured
On the LLM's greedy answers to held-out prompts, {acceptance.num_positions:,} places:

| | |
|---|---|
| first choice right | {acceptance.first_choice:.3f} |
| among the first four | {acceptance.among_four:.3f} |
| candidates hold the best id | {recall:.3f} |

| right at step 1 to {len(acceptance.by_step)}, given that the steps before were | {by_step} |
|---|{"---|" * len(acceptance.by_step)}
| probabilities of the first four are off by (ECE) | {errors} |
| depth scales | {" | ".join(f"{scale:g}" for scale in spec.calibration.depth_scales)} |

| rows of a verification | {head_row} |
|---|{"---|" * len(acceptance.tokens_per_verification)}
| tokens per verification, best-first trees | {trees} |
"""
    (folder / "README.md").write_text(text, encoding="utf-8")


def draw_curve(path: Path, curve: Sequence[LossPoint]) -> bool:
    """The chart of the loss; False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5))
    axes = figure.subplots()
    axes.plot([point.step for point in curve], [point.loss for point in curve], linewidth=0.6, alpha=0.4)
    width = max(1, len(curve) // 50)
    smooth = [
        sum(point.loss for point in curve[max(0, i - width + 1) : i + 1]) / min(i + 1, width) for i in range(len(curve))
    ]
    axes.plot([point.step for point in curve], smooth)
    axes.set_xlabel("step")
    axes.set_ylabel("loss of the first drafted step, nats")
    figure.tight_layout()
    figure.savefig(path)
    return True
