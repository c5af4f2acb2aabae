"""``specgrove ssm train`` and ``specgrove ssm evaluate``: what they check before anything slow begins, and in which order they go.

Recordings are made once, in one format for both kinds of SSMs; all stages go on where they were stopped.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from specgrove.files.json_files import read_json_object
from specgrove.models.hidden_state.config_lists import layer_numbers
from specgrove.models.hidden_state.own_config import ARCHITECTURE
from specgrove.training import decoder_stage, head_stage, shards
from specgrove.training.options import EvaluateOptions, TrainOptions
from specgrove.training.outputs import read_outputs
from specgrove.training.recording import (
    bytes_per_token,
    held_out_prompts,
    outputs_folder,
    prompts_of,
    record,
    record_answers,
    record_outputs,
)
from specgrove.training.target import Target, open_target, sources_of, target_ends
from specgrove.training.workers import say

_PRODUCT_SIZE = 768  # of the product that tells how fast this machine is
_TIMED_S = 0.2
_RECORDING_SHARE = 0.6  # of that speed which a batch of dialogues reaches
_TRAINING_SHARE = 0.5


def train(options: TrainOptions) -> None:
    """Records, trains, measures and writes. Raises ``ValueError``, ``OSError``, ``RuntimeError``."""
    file_prompts = prompts_of(options.data)
    target = open_target(options.llm, options.cache_dir, say)
    layers: tuple[int, ...] = ()
    if options.kind == "head":
        layers = head_stage.layers_of(target.spec, options.head)
        target_ends(target)  # refuses what can't share its embedding
    else:
        decoder_stage.check(target, options)
    if options.start is not None:
        head_stage.check_start(options.start, target, options)
    vocab = target.spec.vocab_size, target.tokenizer.vocab_sha256
    outputs = [read_outputs(path, *vocab) for path in options.outputs]
    work_dir = options.work_dir or _work_dir(options.cache_dir, target)
    _tell_estimate(target, options, [work_dir, *(outputs_folder(work_dir, each) for each in outputs)], layers)
    paths = [path for each in outputs for path in record_outputs(target, work_dir, each, layers, options.workers)]
    num_left = options.num_tokens - shards.num_recorded(paths)
    sources = [path.name for path in options.outputs]
    if num_left > 0:
        names = [place.name for place in options.data]
        paths += record(target, work_dir, file_prompts, num_left, options.workers, layers, names)
        sources += sources_of(work_dir)
    texts = held_out_prompts((), options.num_held_out_prompts)
    answers = record_answers(target, work_dir, texts, options.answer_len, layers, options.workers)
    if options.kind == "head":
        head_stage.train(target, options, work_dir, paths, answers, sources)
    else:
        decoder_stage.train(target, options, work_dir, paths)
        decoder_stage.evaluate(options.out, target, answers)


def evaluate(options: EvaluateOptions) -> None:
    """Raises ``ValueError``, ``OSError``."""
    texts = held_out_prompts(options.data, options.num_prompts)
    config_path = options.ssm / "config.json"
    if not config_path.is_file():
        raise ValueError(f"--ssm: there is no SSM in {options.ssm}: name a folder that `specgrove ssm train` wrote")
    told = read_json_object(config_path)
    is_head = told.texts("architectures") == (ARCHITECTURE,)
    made_for = told.text("vocab_sha256", "") if is_head else told.object("specgrove").text("vocab_sha256", "")
    target = open_target(options.llm, options.cache_dir, say)
    if made_for != target.tokenizer.vocab_sha256:
        raise ValueError(f"the SSM in {options.ssm} is for an LLM of another vocabulary than {target.name}")
    layers = layer_numbers(told, "hidden_layers") if is_head else ()
    work_dir = options.work_dir or _work_dir(options.cache_dir, target)
    answers = record_answers(target, work_dir, texts, options.answer_len, layers, options.workers)
    if is_head:
        head_stage.evaluate(options.ssm, target, answers)
    else:
        decoder_stage.evaluate(options.ssm, target, answers)


def _work_dir(cache_dir: Path, target: Target) -> Path:
    return cache_dir / "ssm-training" / target.name.replace("/", "--")


def _tell_estimate(target: Target, options: TrainOptions, folders: Sequence[Path], layers: tuple[int, ...]) -> None:
    """``folders``: where recordings are, or will be. By this machine's speed at one product; other programs make it longer."""
    spec, per_second = target.spec, _products_per_second() * options.workers
    num_left = max(0, options.num_tokens - sum(shards.num_recorded(shards.shard_paths(folder)) for folder in folders))
    record_s = num_left * 2 * spec.num_parameters / (_RECORDING_SHARE * per_second)
    if options.kind == "head":
        ssm = head_stage.spec_of(spec, options.head)
        of_head = 4 * 8192 * spec.hidden_size  # rows of the head that a batch reads, forwards and backwards
        per_step = 6 * ssm.num_parameters + of_head
        steps_per_token = max(0.0, options.passes - 1) + 3 * min(1.0, options.passes)
        train_s = options.boost * options.num_tokens * steps_per_token * per_step / (_TRAINING_SHARE * per_second)
    else:
        train_s = 60 * options.minutes
    on_disk = num_left * bytes_per_token(spec, layers)
    in_memory = options.workers * 2 * (spec.num_parameters + spec.vocab_size * spec.hidden_size)
    say(
        f"about {_minutes(record_s)} to record {num_left} tokens and {_minutes(train_s)} to train, on {options.workers} cores of "
        f"their own; {on_disk / 1e9:.1f} GB on disk, {in_memory / 1e9:.1f} GB of memory for weights"
    )


def _products_per_second() -> float:
    """Multiplications and additions of one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.ones(_PRODUCT_SIZE, _PRODUCT_SIZE), torch.ones(_PRODUCT_SIZE, _PRODUCT_SIZE)
    started_s, num_done = time.perf_counter(), 0
    while time.perf_counter() - started_s < _TIMED_S:
        a @ b
        num_done += 1
    elapsed_s = time.perf_counter() - started_s
    torch.set_num_threads(before)
    return num_done * 2 * _PRODUCT_SIZE**3 / elapsed_s


def _minutes(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
