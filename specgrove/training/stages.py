"""The three stages: what each checks before anything slow begins, the processes it starts, and what it says. Called by ``cli``.

Generating and training run in several processes with one thread each: faster by half than one process with all threads, and less
disturbed by other programs.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed

from specgrove.files.json_files import read_json_object
from specgrove.kernels.threads import set_num_threads
from specgrove.machine.cpus import available_cpus
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.runtime.devices import available_bytes
from specgrove.tokenizer import Tokenizer
from specgrove.training import evaluate as evaluation
from specgrove.training import sampler, shards, student
from specgrove.training import train as training
from specgrove.training.prompts import EVALUATION_PROMPTS, DialogueSource, around_user_turn, read_prompts
from specgrove.training.target import Target, claim_data_folder, head_rows, open_target
from specgrove.training.teacher import Teacher

_TOKENS_PER_ROW = 256  # of small runs: rows that are started cost the more the less of them is used
_USUAL_FRAME_LEN = 64  # of a chat template, in tokens: the limits are made for it
_MIN_ROOM = 64  # tokens for a prompt and its answer
_MAX_PROMPT_LEN = 128  # of an evaluation


def generate(arguments: argparse.Namespace) -> None:
    """What an earlier run made counts. Raises ``ValueError``, ``OSError``."""
    file_prompts = [] if arguments.prompts is None else read_prompts(arguments.prompts)
    target = _open(arguments)
    claim_data_folder(arguments.data, target)
    shards.remove_partial(arguments.data)
    paths = shards.shard_paths(arguments.data)
    num_left = arguments.num_tokens - (shards.read_paths(paths).num_tokens if paths else 0)
    _say(f"generate: {arguments.num_tokens - num_left} tokens of {arguments.num_tokens} are there")
    if num_left <= 0:
        return
    source = DialogueSource(target.tokenizer, file_prompts)
    num_workers = max(1, min(arguments.workers, num_left // _TOKENS_PER_ROW))
    limits = _limits(target.spec, source.frame_len, -(-num_left // num_workers))
    num_workers = _fitting(target.spec, limits, num_workers)
    limits = _limits(target.spec, source.frame_len, -(-num_left // num_workers))
    seeds = [len(paths) * 1000 + worker for worker in range(num_workers)]
    _run(
        _generate_part, [(target.folder, target.end_ids, file_prompts, arguments.data, limits, seed) for seed in seeds]
    )


def _limits(spec: DecoderSpec, frame_len: int, num_tokens: int) -> sampler.GenerationLimits:
    usual = sampler.GenerationLimits()
    max_len = min(spec.max_position_embeddings, usual.max_len + max(0, frame_len - _USUAL_FRAME_LEN))
    if frame_len + _MIN_ROOM > max_len:
        raise ValueError(
            f"the chat template takes {frame_len} of the {max_len} tokens that the model can read: too few are left"
        )
    return sampler.GenerationLimits(
        num_rows=max(1, min(usual.num_rows, num_tokens // _TOKENS_PER_ROW)), max_len=max_len, num_tokens=num_tokens
    )


def _fitting(spec: DecoderSpec, limits: sampler.GenerationLimits, num_workers: int) -> int:
    """As many processes as memory has room for: each has the whole LLM. Raises ``ValueError`` where one has none."""
    weights = 2 * (spec.num_parameters + spec.vocab_size * spec.hidden_size)
    cache = 4 * limits.num_rows * limits.max_len * spec.num_layers * spec.num_kv_heads * spec.head_dim
    available = available_bytes(torch.device("cpu"))
    num_fitting = int(available // (weights + cache))
    if num_fitting < 1:
        raise ValueError(
            f"the LLM needs {(weights + cache) / 1e9:.1f} GB of memory to generate, {available / 1e9:.1f} GB are free"
        )
    if num_fitting < num_workers:
        _say(f"generate: {num_fitting} processes instead of {num_workers}, for which there is no memory")
    return min(num_workers, num_fitting)


def _generate_part(
    folder: Path,
    end_ids: frozenset[int],
    file_prompts: Sequence[str],
    data: Path,
    limits: sampler.GenerationLimits,
    seed: int,
) -> None:
    def say(line: str) -> None:
        _say(f"worker {seed % 1000}: {line}")

    source = DialogueSource(Tokenizer.from_folder(folder), file_prompts)
    teacher = Teacher(folder, limits.num_rows, limits.max_len, progress=_loading(say))
    sampler.generate(teacher, source.dialogues, data, limits, end_ids, seed, say)


def train(arguments: argparse.Namespace) -> None:
    """All processes read the shards that are there now. Raises ``ValueError``, ``OSError``."""
    target = _open(arguments)
    paths = shards.shard_paths(arguments.data)
    if not paths:
        raise ValueError(f"there are no data in {arguments.data}: run the generate stage first")
    claim_data_folder(arguments.data, target)
    shape = student.StudentShape(
        draft_vocab_size=min(arguments.draft_vocab_size, target.spec.vocab_size + 1),
        hidden_size=arguments.hidden_size,
        intermediate_size=arguments.intermediate_size,
        num_layers=arguments.num_layers,
    )
    head_size = target.spec.embedding_size or target.spec.hidden_size
    if shape.hidden_size > head_size:
        raise ValueError(f"--hidden-size {shape.hidden_size} is more than the LLM's own {head_size}: give at most that")
    _say("train: choosing the vocabulary and the first embedding")
    draft_token_ids = _draft_vocab(target, shards.read_paths(paths), shape.draft_vocab_size)
    embedding = student.principal_embedding(head_rows(target), draft_token_ids, shape.hidden_size)
    plan = _TrainingPlan(
        num_workers=arguments.workers,
        settings=training.TrainingSettings(minutes=arguments.minutes),
        paths=tuple(paths),
        spec=target.spec,
        shape=shape,
        draft_token_ids=draft_token_ids,
        embedding=embedding.numpy(),
        checkpoint_path=arguments.data / _checkpoint_name(shape, draft_token_ids),
        model_folder=arguments.model,
        target_name=arguments.target,
        vocab_sha256=target.tokenizer.vocab_sha256,
    )
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{folder}/rendezvous"
        _run(_train_part, [(plan, address, rank) for rank in range(arguments.workers)])


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
    shape: student.StudentShape
    draft_token_ids: npt.NDArray[np.int32]
    embedding: npt.NDArray[np.float32]
    checkpoint_path: Path
    model_folder: Path
    target_name: str
    vocab_sha256: str


def _checkpoint_name(shape: student.StudentShape, draft_token_ids: npt.NDArray[np.int32]) -> str:
    """Another drafter's has another name."""
    digest = hashlib.sha256(f"{asdict(shape)}".encode() + draft_token_ids.tobytes()).hexdigest()[:12]
    return f"checkpoint-{digest}.pt"


def _train_part(plan: _TrainingPlan, address: str, rank: int) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=plan.num_workers)
    data, spec = shards.read_paths(plan.paths), plan.spec
    torch.manual_seed(plan.settings.seed)
    model = student.new_student(plan.shape, spec, torch.from_numpy(plan.embedding))
    if rank == 0:
        _say(f"train: {data.num_tokens} tokens, {sum(p.numel() for p in model.parameters())} parameters")
    rows = training.training_rows(data, plan.draft_token_ids, spec.vocab_size, plan.settings.hard_share)
    done = training.train(model, data, rows, plan.settings, plan.checkpoint_path, _say)
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
    _say(f"train: written to {plan.model_folder}")


def evaluate(arguments: argparse.Namespace) -> None:
    """The LLM's answers are kept, for the next drafter. Raises ``ValueError``, ``OSError``."""
    texts = list(EVALUATION_PROMPTS) if arguments.prompts is None else read_prompts(arguments.prompts)
    config_path = arguments.model / "config.json"
    if not config_path.is_file():
        raise ValueError(f"there is no drafter in {arguments.model}: train one, or name its folder with --model")
    target = _open(arguments)
    made_for = read_json_object(config_path).object("specgrove").text("vocab_sha256", "")
    if made_for != target.tokenizer.vocab_sha256:
        raise ValueError(f"the drafter in {arguments.model} is for an LLM of another vocabulary than {target.name}")
    claim_data_folder(arguments.data, target)
    prompts = _evaluation_prompts(target, texts[: arguments.num_prompts], arguments.answer_len)
    digest = hashlib.sha256(repr((prompts, arguments.answer_len)).encode()).hexdigest()[:12]
    folder = arguments.data / f"evaluation-{digest}"
    set_num_threads(available_cpus())
    if shards.shard_paths(folder):
        answers = shards.read_shards(folder)
    else:
        _say(f"evaluate: the LLM answers {len(prompts)} prompts, with {arguments.answer_len} tokens at most, once")
        teacher = Teacher(
            target.folder, len(prompts), max(map(len, prompts)) + arguments.answer_len, progress=_loading(_say)
        )
        answers = evaluation.greedy_answers(teacher, prompts, arguments.answer_len, target.end_ids, folder, _say)
    model, draft_token_ids = student.load_student(arguments.model)
    result = evaluation.evaluate(model, draft_token_ids, answers, target.spec.vocab_size)
    num_parameters = sum(p.numel() for p in model.parameters())
    evaluation.report(result, evaluation.level_time_ms(model), num_parameters, _say)


def _evaluation_prompts(target: Target, texts: Sequence[str], answer_len: int) -> list[list[int]]:
    tokenizer = target.tokenizer
    prompts = [
        tokenizer.encode_chat([("user", text)]) if tokenizer.has_chat_template else tokenizer.encode(text)
        for text in texts
    ]
    room = min(_MAX_PROMPT_LEN, target.spec.max_position_embeddings - answer_len)
    short = [prompt for prompt in prompts if 0 < len(prompt) <= room]
    if not short:
        raise ValueError(f"all prompts have more than {room} tokens: give shorter ones, or a smaller --answer-len")
    return short


def _open(arguments: argparse.Namespace) -> Target:
    return open_target(arguments.target, arguments.cache_dir, _say)


def _loading(say: Callable[[str], None]) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == total or done % 8 == 0:
            say(f"loaded layer {done} of {total}")

    return progress


def _run(part: Callable[..., None], parts: Sequence[tuple[object, ...]]) -> None:
    """A process for each, until all have ended. Raises ``RuntimeError`` when one failed."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(part, *arguments), daemon=True) for arguments in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a process failed; start again to go on from where it was")


def _work(part: Callable[..., None], *arguments: object) -> None:
    """In the process: one thread, and one line for what goes wrong."""
    torch.set_num_threads(1)
    set_num_threads(1)
    try:
        part(*arguments)
    except (ValueError, OSError) as error:
        _say(f"error: {' '.join(str(error).split())}")
        raise SystemExit(1) from None


def _say(line: str) -> None:
    print(line, flush=True)
