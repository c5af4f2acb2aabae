"""What an LLM said, as token ids alone: a byte or so of disk for each token. One pass of the LLM gives the recordings again.

Used by ``stages``, through ``recording``. Hidden states and probabilities are thousands of times larger, so these files are what is kept.
They lie beside an SSM's weights, too.
Invariant: what was read again before a run was killed counts; a dialogue is read once.
"""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from specgrove.training.shards import TOP_COUNT, Dialogues, joined, num_sequences, shard_paths, write_shard
from specgrove.training.teacher import Teacher, top_log_probs

OUTPUTS_NAME = "outputs.npz"
_TOKENS_PER_SHARD = 20_000
_CHUNK_LEN = 128  # rows of a pass: more make it no faster, and the logits of so many take 25 MB already
_REPORT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Outputs:
    """Dialogues laid end to end, as ``Dialogues`` without what the LLM thought."""

    token_ids: npt.NDArray[np.int32]  # [num_tokens]
    is_made: npt.NDArray[np.uint8]  # [num_tokens], 1: the LLM made the token after this one
    lengths: npt.NDArray[np.int32]  # [num_sequences], adding up to num_tokens

    @property
    def digest(self) -> str:
        """The same for the same dialogues."""
        parts = (self.token_ids.tobytes(), self.is_made.tobytes(), self.lengths.tobytes())
        return hashlib.sha256(b"|".join(parts)).hexdigest()[:12]


def write_outputs(path: Path, dialogues: Sequence[Dialogues | Outputs], vocab_sha256: str) -> None:
    """All of them in one file. ``vocab_sha256``: of the LLM's tokenizer, so that no other takes them for its own."""
    token_ids, made, lengths = (
        np.concatenate([getattr(part, name) for part in dialogues]) for name in ("token_ids", "is_made", "lengths")
    )
    ids_type = np.uint16 if int(token_ids.max(initial=0)) < 1 << 16 else np.int32
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(
        temporary,
        token_ids=token_ids.astype(ids_type),
        is_made=np.packbits(made.astype(bool)),
        lengths=lengths.astype(np.int32),
        vocab_sha256=np.array(vocab_sha256),
    )
    temporary.rename(path)


def read_outputs(path: Path, vocab_size: int, vocab_sha256: str) -> Outputs:
    """Raises ``ValueError`` for a file that is none, or of an LLM with another vocabulary; ``OSError``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            token_ids, lengths = file["token_ids"].astype(np.int32), file["lengths"].astype(np.int32)
            made = np.unpackbits(file["is_made"], count=len(token_ids))
            told = str(file["vocab_sha256"]) if "vocab_sha256" in file else vocab_sha256
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no outputs as `specgrove ssm train` writes them ({error})") from error
    if (
        len(lengths) == 0
        or int(lengths.min()) < 1
        or int(lengths.sum()) != len(token_ids)
        or len(made) != len(token_ids)
    ):
        raise ValueError(f"{path} is damaged: its dialogues have not as many tokens as there are")
    if told != vocab_sha256 or int(token_ids.max()) >= vocab_size or int(token_ids.min()) < 0:
        raise ValueError(f"{path} is of an LLM with another vocabulary: its token ids mean something else here")
    return Outputs(token_ids, made, lengths)


def read_again(
    teacher: Teacher,
    outputs: Outputs,
    folder: Path,
    progress: Callable[[str], None],
    tokens_per_shard: int = _TOKENS_PER_SHARD,
) -> list[Path]:
    """Shards of ``folder`` with these dialogues, as ``sampler`` would have recorded them; from where the last run was stopped."""
    ends = np.cumsum(outputs.lengths, dtype=np.int64)
    num_done = num_sequences(shard_paths(folder))
    num_tokens = int(ends[-1])
    parts: list[Dialogues] = []
    hidden: list[torch.Tensor] = []
    num_pending = num_read = 0
    started = reported = time.monotonic()
    for index in range(num_done, len(outputs.lengths)):
        place = slice(int(ends[index] - outputs.lengths[index]), int(ends[index]))
        found, states = _read(teacher, outputs.token_ids[place], outputs.is_made[place])
        parts.append(found)
        hidden += [] if states is None else [states]
        num_pending, num_read = num_pending + found.num_tokens, num_read + found.num_tokens
        is_last = index == len(outputs.lengths) - 1
        if is_last or num_pending >= tokens_per_shard:
            write_shard(folder, joined(parts), torch.cat(hidden) if hidden else None)
            parts, hidden, num_pending = [], [], 0
        now = time.monotonic()
        if is_last or now - reported >= _REPORT_EVERY_S:
            reported, rate = now, num_read / max(1e-9, now - started)
            left_s = (num_tokens - int(ends[index])) / rate
            progress(f"read: {int(ends[index])} of {num_tokens} tokens, {rate:.0f} tokens/s, about {left_s:.0f} s left")
    return shard_paths(folder)


def _read(
    teacher: Teacher, token_ids: npt.NDArray[np.int32], made: npt.NDArray[np.uint8]
) -> tuple[Dialogues, torch.Tensor | None]:
    values, ids, states = [], [], []
    for first in range(0, len(token_ids), _CHUNK_LEN):
        step = teacher.read(token_ids[first : first + _CHUNK_LEN].tolist(), first)
        of_chunk = top_log_probs(step.logits, TOP_COUNT)
        values.append(of_chunk[0].half())
        ids.append(of_chunk[1].int())
        states += [] if step.hidden is None else [step.hidden]
    dialogue = Dialogues(
        token_ids=token_ids,
        is_made=made,
        top_ids=torch.cat(ids).numpy(),
        top_log_probs=torch.cat(values).numpy(),
        lengths=np.array([len(token_ids)], np.int32),
    )
    return dialogue, torch.cat(states) if states else None
