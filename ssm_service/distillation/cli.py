"""The command line: ``python -m ssm_service.distillation generate|train|evaluate``, each resumable. Owns paths and printing."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors.torch import load_file

from specgrove.folders import default_cache_dir
from specgrove.models.ends import ends_of
from specgrove.models.hub import DEMO_LLM, resolve_model
from specgrove.tokenizer import Tokenizer
from ssm_service.distillation import evaluate as evaluation
from ssm_service.distillation import sampler, shards, student, train
from ssm_service.distillation.prompts import Dialogue, around_user_turn, dialogues, read_prompt_files
from ssm_service.distillation.teacher import Teacher

CACHE_DIR = default_cache_dir()
EVALUATION_FILE = "alpaca.json"


def main() -> None:
    """Runs one stage."""
    arguments = _parser().parse_args()
    target = resolve_model(arguments.target, cache_dir=CACHE_DIR, progress=_say)
    {"generate": _generate, "train": _train, "evaluate": _evaluate}[arguments.stage](arguments, target)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ssm_service.distillation", description=__doc__)
    parser.add_argument("stage", choices=("generate", "train", "evaluate"))
    parser.add_argument("--target", default=DEMO_LLM, help="the LLM: a folder, hub id or the demo model (default)")
    parser.add_argument("--data", type=Path, default=CACHE_DIR / "distillation", help="generated data, checkpoints")
    parser.add_argument(
        "--prompts", type=Path, help="folder with prompt files (JSON lists); without, the LLM invents all"
    )
    parser.add_argument(
        "--model", type=Path, default=CACHE_DIR / "drafter", help="the drafter's folder: written, evaluated"
    )
    parser.add_argument(
        "--num-tokens", type=int, default=1_000_000, help="generate: tokens of data (default %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="generate, train: processes (default: cores)"
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="train: wall-clock minutes (default %(default)s)")
    parser.add_argument("--draft-vocab-size", type=int, default=student.StudentShape().draft_vocab_size)
    parser.add_argument("--hidden-size", type=int, default=student.StudentShape().hidden_size)
    parser.add_argument("--intermediate-size", type=int, default=student.StudentShape().intermediate_size)
    parser.add_argument("--num-layers", type=int, default=student.StudentShape().num_layers)
    parser.add_argument("--num-prompts", type=int, default=64, help=f"evaluate: prompts of {EVALUATION_FILE}")
    parser.add_argument("--answer-len", type=int, default=128, help="evaluate: tokens per answer (default %(default)s)")
    return parser


def _say(line: str) -> None:
    print(line, flush=True)


def _config_of(target: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((target / "config.json").read_text(encoding="utf-8"))
    return config


def _eos_id(target: Path) -> int:
    ends = ends_of(target, Tokenizer.from_folder(target), _config_of(target)["vocab_size"])
    if not ends.chat:
        raise SystemExit(f"{target} names no token that ends an answer: set eos_token_id in its generation_config.json")
    return ends.chat[0]


def _generate(arguments: argparse.Namespace, target: Path) -> None:
    """Several processes, each with one thread and its own seed; what an earlier run made counts."""
    paths = shards.shard_paths(arguments.data)
    num_held = shards.read_shards(arguments.data).num_tokens if paths else 0
    _say(f"generate: {num_held} tokens of {arguments.num_tokens} are there")
    num_each = -(-max(0, arguments.num_tokens - num_held) // arguments.workers)
    context = multiprocessing.get_context("spawn")
    seeds = [len(paths) * 1000 + worker for worker in range(arguments.workers)]
    workers = [context.Process(target=_generate_part, args=(arguments, target, num_each, seed)) for seed in seeds]
    _run(workers)


def _generate_part(arguments: argparse.Namespace, target: Path, num_tokens: int, seed: int) -> None:
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_folder(target)
    file_prompts = read_prompt_files(arguments.prompts)
    limits = sampler.GenerationLimits(num_tokens=num_tokens)

    def dialogues_of(seed: int) -> Iterator[Dialogue]:
        return dialogues(tokenizer, file_prompts, seed)

    def say(line: str) -> None:
        _say(f"worker {seed % 1000}: {line}")

    teacher = Teacher(target, limits.num_rows, limits.max_len)
    sampler.generate(teacher, dialogues_of, arguments.data, limits, _eos_id(target), seed, say)


def _train(arguments: argparse.Namespace, target: Path) -> None:
    """Several processes, each with one thread, as in ``_generate``. All read the shards that are there now."""
    paths = shards.shard_paths(arguments.data)
    if not paths:
        raise SystemExit(f"train: no shards in {arguments.data}, run the generate stage first")
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        address = f"file://{folder}/rendezvous"
        workers = [
            context.Process(target=_train_part, args=(arguments, target, paths, address, rank))
            for rank in range(arguments.workers)
        ]
        _run(workers)


def _run(workers: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Until all have ended. Raises ``SystemExit`` when one failed."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker failed; start again to go on")


def _train_part(arguments: argparse.Namespace, target: Path, paths: list[Path], address: str, rank: int) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=arguments.workers)
    data = shards.read_paths(paths)
    target_config = _config_of(target)
    tokenizer = Tokenizer.from_folder(target)
    always = tuple(sorted({*tokenizer.encode("".join(around_user_turn(tokenizer, None))), _eos_id(target)}))
    shape = student.StudentShape(
        draft_vocab_size=arguments.draft_vocab_size,
        hidden_size=arguments.hidden_size,
        intermediate_size=arguments.intermediate_size,
        num_layers=arguments.num_layers,
    )
    settings = train.TrainingSettings(minutes=arguments.minutes)
    draft_token_ids = student.choose_draft_vocab(data, target_config["vocab_size"], shape.draft_vocab_size, always)
    target_embedding = load_file(target / "model.safetensors")["model.embed_tokens.weight"]
    torch.manual_seed(settings.seed)
    model = student.new_student(
        shape, target_config, student.principal_embedding(target_embedding, draft_token_ids, shape.hidden_size)
    )
    if rank == 0:
        _say(f"train: {data.num_tokens} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    rows = train.training_rows(data, draft_token_ids, target_config["vocab_size"], settings.hard_share)
    checkpoint = arguments.data / "checkpoint.pt"
    done = train.train(model, data, rows, settings, checkpoint, _say)
    torch.distributed.destroy_process_group()
    if rank > 0:
        return
    training = done | {
        "data_tokens": data.num_tokens,
        "data_tokens_made_by_llm": int(data.is_made.sum()),
        "hardware": f"{platform.machine()} CPU, {os.cpu_count()} cores",
    }
    vocab_sha256 = Tokenizer.from_folder(target).vocab_sha256
    student.save_student(model, draft_token_ids, arguments.model, arguments.target, vocab_sha256, training)
    checkpoint.unlink()
    _say(f"train: written to {arguments.model}")


def _evaluate(arguments: argparse.Namespace, target: Path) -> None:
    if arguments.prompts is None:
        raise SystemExit(f"evaluate needs --prompts, a folder with {EVALUATION_FILE}")
    tokenizer = Tokenizer.from_folder(target)
    texts = read_prompt_files(arguments.prompts, (EVALUATION_FILE,))[: arguments.num_prompts]
    prompts = [tokenizer.encode_chat([("user", text)]) for text in texts]
    prompts = [prompt for prompt in prompts if len(prompt) <= 128]
    folder = arguments.data / f"evaluation-{arguments.num_prompts}x{arguments.answer_len}"
    teacher = Teacher(target, len(prompts), max(map(len, prompts)) + arguments.answer_len)
    answers = evaluation.greedy_answers(teacher, prompts, arguments.answer_len, _eos_id(target), folder)
    model, draft_token_ids = student.load_student(arguments.model)
    result = evaluation.evaluate(model, draft_token_ids, answers, _config_of(target)["vocab_size"])
    num_parameters = sum(p.numel() for p in model.parameters())
    evaluation.report(result, evaluation.level_time_ms(model), num_parameters, _say)
