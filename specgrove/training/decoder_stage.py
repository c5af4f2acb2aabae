"""SSMs of kind ``decoder``: small models with tokens in and tokens out, trained on recordings. Called by ``stages``."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed

from specgrove.machine.cpus import available_cpus
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.training import evaluate as evaluation
from specgrove.training import shards, student
from specgrove.training import train as training
from specgrove.training.options import DecoderShape, TrainOptions
from specgrove.training.prompts import around_user_turn
from specgrove.training.target import Target, head_rows
from specgrove.training.workers import run_all, say


def check(target: Target, options: TrainOptions) -> None:
    """Before anything slow. Raises ``ValueError``."""
    head_size = target.spec.embedding_size or target.spec.hidden_size
    if options.decoder.hidden_size > head_size:
        raise ValueError(
            f"--hidden-size {options.decoder.hidden_size} is more than the LLM's own {head_size}: give at most that"
        )
    if options.boost > 1:
        raise ValueError("--boost goes with --kind head")


def train(target: Target, options: TrainOptions, work_dir: Path, paths: Sequence[Path]) -> None:
    """Writes the SSM's folder. Raises ``ValueError``, ``OSError``, ``RuntimeError``."""
    shape = DecoderShape(
        **asdict(options.decoder)
        | {"draft_vocab_size": min(options.decoder.draft_vocab_size, target.spec.vocab_size + 1)}
    )
    say("train: choosing the vocabulary and the first embedding")
    draft_token_ids = _draft_vocab(target, shards.read_paths(paths), shape.draft_vocab_size)
    embedding = student.principal_embedding(head_rows(target), draft_token_ids, shape.hidden_size)
    plan = _TrainingPlan(
        num_workers=options.workers,
        settings=training.TrainingSettings(minutes=options.minutes),
        paths=tuple(paths),
        spec=target.spec,
        shape=shape,
        draft_token_ids=draft_token_ids,
        embedding=embedding.numpy(),
        checkpoint_path=work_dir / _checkpoint_name(shape, draft_token_ids),
        model_folder=options.out,
        target_name=target.name,
        vocab_sha256=target.tokenizer.vocab_sha256,
    )
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{folder}/rendezvous"
        run_all(_train_part, [(plan, address, rank) for rank in range(options.workers)])


def evaluate(folder: Path, target: Target, paths: Sequence[Path]) -> None:
    """Says how good an SSM is on the LLM's greedy answers."""
    model, draft_token_ids = student.load_student(folder)
    result = evaluation.evaluate(model, draft_token_ids, shards.read_paths(paths), target.spec.vocab_size)
    num_parameters = sum(p.numel() for p in model.parameters())
    evaluation.report(result, evaluation.level_time_ms(model), num_parameters, print)


def _draft_vocab(target: Target, data: shards.Dialogues, size: int) -> npt.NDArray[np.int32]:
    frame = "".join(around_user_turn(target.tokenizer, None)) if target.tokenizer.has_chat_template else ""
    always = tuple(sorted({*target.tokenizer.encode(frame), *target.end_ids}))
    return student.choose_draft_vocab(data, target.spec.vocab_size, size, always[: size - 1])


@dataclass(frozen=True, slots=True)
class _TrainingPlan:
    """What the processes of a training share, made by the first."""

    num_workers: int
    settings: training.TrainingSettings
    paths: tuple[Path, ...]
    spec: DecoderSpec
    shape: DecoderShape
    draft_token_ids: npt.NDArray[np.int32]
    embedding: npt.NDArray[np.float32]
    checkpoint_path: Path
    model_folder: Path
    target_name: str
    vocab_sha256: str


def _checkpoint_name(shape: DecoderShape, draft_token_ids: npt.NDArray[np.int32]) -> str:
    """Another drafter's has another name."""
    digest = hashlib.sha256(f"{asdict(shape)}".encode() + draft_token_ids.tobytes()).hexdigest()[:12]
    return f"checkpoint-{digest}.pt"


def _train_part(plan: _TrainingPlan, address: str, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.num_workers)
    data, spec = shards.read_paths(plan.paths), plan.spec
    torch.manual_seed(plan.settings.seed)
    model = student.new_student(plan.shape, spec, torch.from_numpy(plan.embedding))
    if rank == 0:
        say(f"train: {data.num_tokens} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    rows = training.training_rows(data, plan.draft_token_ids, spec.vocab_size, plan.settings.hard_share)
    done = training.train(model, data, rows, plan.settings, plan.checkpoint_path, say)
    torch.distributed.destroy_process_group()
    if rank > 0:
        return
    told = done | {
        "data_tokens": data.num_tokens,
        "data_tokens_made_by_llm": int(data.is_made.sum()),
        "hardware": f"{platform.machine()} CPU, {available_cpus()} cores",
    }
    student.save_student(model, plan.draft_token_ids, plan.model_folder, plan.target_name, plan.vocab_sha256, told)
    plan.checkpoint_path.unlink()
    say(f"train: written to {plan.model_folder}")
