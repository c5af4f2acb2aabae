"""Trains an SSM of kind ``decoder`` on the recorded dialogues. Called by ``stages``.

The schedule goes by wall-clock minutes, since that is what is scarce. Resumable: a checkpoint a minute, in the data folder.
Runs in one process, or in several that average their gradients (``torch.distributed``, set up by the caller): with a thread each
they stall less than one process with many when other programs want the cores. Invariant: all hold the same model at every step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from specgrove.training.losses import soft_target_loss
from specgrove.training.muon import Muon
from specgrove.training.shards import Dialogues
from specgrove.training.student import draft_id_of_token

CHECKPOINT_EVERY_S = 60.0
REPORT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Learning rates follow a cosine to zero over ``minutes``, after a short warm-up."""

    minutes: float = 20.0
    row_len: int = 512  # tokens; dialogues are laid end to end and cut, so drafting far into a context is trained too
    rows_per_pass: int = 3  # of each worker
    matrix_learning_rate: float = 8e-3  # by Muon (https://kellerjordan.github.io/posts/muon)
    embedding_learning_rate: float = 4e-3  # by AdamW
    norm_learning_rate: float = 1e-2  # by AdamW; the last norm sets the scale of the logits
    weight_decay: float = 0.05  # of matrices
    warmup_share: float = 0.03
    hard_share: float = 0.2  # of the target: all on the teacher's first choice, which is what greedy decoding asks for
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """Arrays in draft ids, one row per token, in the order of the dialogues."""

    input_ids: torch.Tensor  # [num_tokens]
    is_target: torch.Tensor  # [num_tokens] bool
    target_ids: torch.Tensor  # [num_tokens, TOP_COUNT]
    target_probs: torch.Tensor  # [num_tokens, TOP_COUNT], rows sum to 1


def training_rows(
    dialogues: Dialogues, draft_token_ids: npt.NDArray[np.int32], target_vocab_size: int, hard_share: float
) -> TrainingRows:
    """Maps to draft ids. What the teacher gives to tokens outside the draft vocabulary goes to the unknown id."""
    inverse = draft_id_of_token(draft_token_ids, target_vocab_size)
    probs = np.exp(dialogues.top_log_probs.astype(np.float32))
    probs *= (1 - hard_share) / probs.sum(-1, keepdims=True)
    probs[:, 0] += hard_share
    return TrainingRows(
        input_ids=torch.from_numpy(inverse[dialogues.token_ids]),
        is_target=torch.from_numpy(dialogues.is_made.astype(bool)),
        target_ids=torch.from_numpy(inverse[dialogues.top_ids]),
        target_probs=torch.from_numpy(probs),
    )


def epoch_order(dialogues: Dialogues, row_len: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Token places ``[num_rows, row_len]``: the dialogues in a random order, laid end to end and cut into rows."""
    starts = dialogues.starts()
    order = rng.permutation(len(starts))
    places = np.concatenate([np.arange(starts[i], starts[i] + dialogues.lengths[i]) for i in order])
    places = np.roll(places, int(rng.integers(row_len)))
    num_rows = max(1, len(places) // row_len)
    return np.resize(places, (num_rows, row_len))[rng.permutation(num_rows)]


def train(
    model: Any,
    dialogues: Dialogues,
    rows: TrainingRows,
    settings: TrainingSettings,
    checkpoint_path: Path,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Trains ``model`` in place and returns what was done, for the model's config. Goes on from ``checkpoint_path``."""
    optimizers = _optimizers(model, settings)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    elapsed_s, num_steps, losses = 0.0, 0, []
    if checkpoint_path.is_file():
        state = torch.load(checkpoint_path, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        elapsed_s, num_steps = state["elapsed_s"], state["num_steps"]
        progress(f"train: going on after {elapsed_s:.0f} s, {num_steps} steps")
    rank, num_workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    rng = np.random.default_rng((settings.seed, num_steps, rank))
    started = reported = saved = clock()
    before_s, first_step = elapsed_s, num_steps
    total_s = settings.minutes * 60
    order, next_row = epoch_order(dialogues, settings.row_len, rng), 0
    model.train()
    while elapsed_s < total_s:
        if next_row + settings.rows_per_pass > len(order) and next_row > 0:
            order, next_row = epoch_order(dialogues, settings.row_len, rng), 0
        places = torch.from_numpy(order[next_row : next_row + settings.rows_per_pass])
        next_row += settings.rows_per_pass
        factor = _schedule(elapsed_s / total_s, settings.warmup_share)
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        losses.append(_backward(model, rows, places, optimizers))
        elapsed_s = _agree(model, before_s + clock() - started)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        num_steps += 1
        now = clock()
        if rank > 0:
            continue
        if now - reported > REPORT_EVERY_S:
            speed = (num_steps - first_step) * places.numel() * num_workers / (now - started)
            progress(
                f"train: step {num_steps}, loss {np.mean(losses[-50:]):.3f}, {speed:.0f} tokens/s, "
                f"{total_s - elapsed_s:.0f} s left"
            )
            reported = now
        if now - saved > CHECKPOINT_EVERY_S:
            _save(checkpoint_path, model, optimizers, elapsed_s, num_steps)
            saved = now
    if rank == 0:
        _save(checkpoint_path, model, optimizers, elapsed_s, num_steps)
    num_seen = num_steps * settings.rows_per_pass * settings.row_len * num_workers
    return {
        "settings": asdict(settings),
        "num_workers": num_workers,
        "num_steps": num_steps,
        "num_epochs": round(num_seen / dialogues.num_tokens, 2),
        "training_s": round(elapsed_s),
        "final_loss": round(float(np.mean(losses[-50:])), 4) if losses else None,
    }


def _backward(model: Any, rows: TrainingRows, places: torch.Tensor, optimizers: list[torch.optim.Optimizer]) -> float:
    """The loss of the rows at ``places`` ``[num_rows, row_len]``, and its gradients in the parameters."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=rows.input_ids[places], use_cache=False).last_hidden_state
    is_target = rows.is_target[places]
    chosen = places[is_target]
    loss = soft_target_loss(
        hidden[is_target].float(), model.lm_head.weight, rows.target_ids[chosen], rows.target_probs[chosen]
    )
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def _agree(model: Any, elapsed_s: float) -> float:
    """Averages the workers' gradients, and their clocks, which the schedule and the end go by. Returns the agreed clock."""
    if not dist.is_initialized():
        return elapsed_s
    gradients = [parameter.grad for parameter in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients] + [torch.tensor([elapsed_s])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = torch.split(flat[:-1], [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return float(flat[-1])


def _schedule(share_done: float, warmup_share: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    if share_done < warmup_share:
        return share_done / warmup_share + 1e-2
    share = min(1.0, (share_done - warmup_share) / (1 - warmup_share))
    return 0.5 * (1 + math.cos(math.pi * share))


def _optimizers(model: Any, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    embedding = model.lm_head.weight  # the head is the same tensor
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
    norms = [p for p in model.parameters() if p.ndim == 1]
    return [
        Muon(matrices, settings.matrix_learning_rate, weight_decay=settings.weight_decay),
        torch.optim.AdamW(
            [
                {"params": [embedding], "lr": settings.embedding_learning_rate},
                {"params": norms, "lr": settings.norm_learning_rate},
            ],
            betas=(0.9, 0.98),
            weight_decay=0.0,
        ),
    ]


def _save(path: Path, model: Any, optimizers: list[torch.optim.Optimizer], elapsed_s: float, num_steps: int) -> None:
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "elapsed_s": elapsed_s,
        "num_steps": num_steps,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.rename(path)
