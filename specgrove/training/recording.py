"""Recordings of what an LLM says to prompts: checked, estimated, made in several processes, and gone on with. Used by ``stages``.

What an earlier run made counts. Held-out answers are recorded the same way, once for each set of prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from specgrove.kernels.threads import set_num_threads
from specgrove.models.decoder.spec import DecoderSpec
from specgrove.models.folders.disk_room import DiskNeed, told_when_full
from specgrove.runtime.devices import available_bytes
from specgrove.tokenizer import Tokenizer
from specgrove.training import answers, sampler, shards
from specgrove.training.outputs import Outputs, read_again
from specgrove.training.prompts import EVALUATION_PROMPTS, DialogueSource, read_prompts
from specgrove.training.target import Target, claim_data_folder, note_sources
from specgrove.training.teacher import Teacher
from specgrove.training.workers import loading, run_all, say

_TOKENS_PER_ROW = 256  # of small runs: rows that are started cost the more the less of them is used
_USUAL_FRAME_LEN = 64  # of a chat template, in tokens: the limits are made for it
_MIN_ROOM = 64  # tokens for a prompt and its answer
_MAX_PROMPT_LEN = 128  # of an evaluation
_PLAIN_BYTES = 4 + 1 + 6 * shards.TOP_COUNT  # of a token, without hidden states


def prompts_of(places: Sequence[Path]) -> list[str]:
    """Those of all files and folders. Raises ``ValueError``."""
    return [prompt for place in places for prompt in read_prompts(place)]


def bytes_per_token(spec: DecoderSpec, hidden_layers: Sequence[int]) -> int:
    """On disk."""
    return _PLAIN_BYTES + 2 * len(hidden_layers) * spec.hidden_size


def record(
    target: Target,
    folder: Path,
    file_prompts: Sequence[str],
    num_tokens: int,
    num_workers: int,
    hidden_layers: tuple[int, ...],
    sources: Sequence[str] = (),
) -> list[Path]:
    """Brings the folder's shards to ``num_tokens``; ``sources`` are the names of where ``file_prompts`` come from.

    Raises ``ValueError``, ``OSError``, ``RuntimeError``.
    """
    claim_data_folder(folder, target, hidden_layers)
    shards.remove_partial(folder)
    paths = shards.shard_paths(folder)
    num_left = num_tokens - shards.num_recorded(paths)
    say(f"record: {num_tokens - num_left} tokens of {num_tokens} are there")
    if num_left <= 0:
        return paths
    note_sources(folder, sources)
    source = DialogueSource(target.tokenizer, file_prompts)
    num_workers = max(1, min(num_workers, num_left // _TOKENS_PER_ROW))
    limits = _limits(target.spec, source.frame_len, -(-num_left // num_workers))
    num_workers = _fitting(target.spec, limits, num_workers)
    limits = _limits(target.spec, source.frame_len, -(-num_left // num_workers))
    need = DiskNeed("recording", num_left * bytes_per_token(target.spec, hidden_layers))
    parts = [
        (target.folder, target.end_ids, tuple(file_prompts), folder, limits, hidden_layers, len(paths) * 1000 + worker)
        for worker in range(num_workers)
    ]
    with told_when_full(folder, need):
        run_all(_record_part, parts)
    return shards.shard_paths(folder)


def outputs_folder(folder: Path, outputs: Outputs) -> Path:
    """Where their recordings lie below those that were generated."""
    return folder / f"outputs-{outputs.digest}"


def record_outputs(
    target: Target, folder: Path, outputs: Outputs, hidden_layers: tuple[int, ...], num_threads: int
) -> list[Path]:
    """Shards with dialogues that are token ids so far: the LLM reads them, once. Raises ``ValueError``, ``OSError``."""
    own = outputs_folder(folder, outputs)
    claim_data_folder(own, target, hidden_layers)
    shards.remove_partial(own)
    paths = shards.shard_paths(own)
    num_left = len(outputs.token_ids) - shards.num_recorded(paths)
    if num_left:
        say(f"read: {num_left} tokens of {len(outputs.token_ids)} are to be read")
        torch.set_num_threads(num_threads)
        set_num_threads(num_threads)
        teacher = Teacher(target.folder, 1, int(outputs.lengths.max()), hidden_layers, progress=loading(say))
        with told_when_full(own, DiskNeed("recording", num_left * bytes_per_token(target.spec, hidden_layers))):
            paths = read_again(teacher, outputs, own, say)
    return paths


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
            f"the LLM needs {(weights + cache) / 1e9:.1f} GB of memory to record, {available / 1e9:.1f} GB are free"
        )
    if num_fitting < num_workers:
        say(f"record: {num_fitting} processes instead of {num_workers}, for which there is no memory")
    return min(num_workers, num_fitting)


def _record_part(
    folder: Path,
    end_ids: frozenset[int],
    file_prompts: Sequence[str],
    data: Path,
    limits: sampler.GenerationLimits,
    hidden_layers: tuple[int, ...],
    seed: int,
) -> None:
    def tell(line: str) -> None:
        say(f"worker {seed % 1000}: {line}")

    source = DialogueSource(Tokenizer.from_folder(folder), file_prompts)
    teacher = Teacher(folder, limits.num_rows, limits.max_len, hidden_layers, progress=loading(tell))
    sampler.generate(teacher, source.dialogues, data, limits, end_ids, seed, tell)


def record_answers(
    target: Target,
    folder: Path,
    texts: Sequence[str],
    answer_len: int,
    hidden_layers: tuple[int, ...],
    num_threads: int,
) -> list[Path]:
    """Shards with the LLM's greedy answers to held-out prompts, made once. Raises ``ValueError``, ``OSError``."""
    prompts = _evaluation_prompts(target, texts, answer_len)
    digest = hashlib.sha256(repr((prompts, answer_len, hidden_layers)).encode()).hexdigest()[:12]
    own = folder / f"evaluation-{digest}"
    claim_data_folder(own, target, hidden_layers)
    if not shards.shard_paths(own):
        say(f"evaluate: the LLM answers {len(prompts)} prompts, with {answer_len} tokens at most, once")
        torch.set_num_threads(num_threads)
        set_num_threads(num_threads)
        longest = max(map(len, prompts)) + answer_len
        teacher = Teacher(target.folder, len(prompts), longest, hidden_layers, progress=loading(say))
        answers.greedy_answers(teacher, prompts, answer_len, target.end_ids, own, say)
    return shards.shard_paths(own)


def held_out_prompts(places: Sequence[Path], num_prompts: int) -> list[str]:
    """Those of files, else of our own; so many at most."""
    return (prompts_of(places) if places else list(EVALUATION_PROMPTS))[:num_prompts]


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
