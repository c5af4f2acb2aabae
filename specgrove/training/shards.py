"""The recordings on disk: numbered safetensors files, written by ``sampler``, read by both trainers.

Invariant: a shard appears under its name only when it is complete, so an interrupted run loses at most one shard. One format serves all
kinds of SSMs: with hidden states where an SSM reads them, without them else.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from safetensors.torch import save_file

TOP_COUNT = 16  # the teacher's probabilities kept per position
ARRAYS = ("token_ids", "is_made", "top_ids", "top_log_probs", "lengths")
HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class Dialogues:
    """Sequences laid end to end. Row i of the ``top_`` arrays is the teacher's distribution for the token after token i."""

    token_ids: npt.NDArray[np.int32]  # [num_tokens]
    is_made: npt.NDArray[np.uint8]  # [num_tokens], 1: the LLM made the token after this one
    top_ids: npt.NDArray[np.int32]  # [num_tokens, TOP_COUNT], likeliest first
    top_log_probs: npt.NDArray[np.float16]  # [num_tokens, TOP_COUNT]
    lengths: npt.NDArray[np.int32]  # [num_sequences], adding up to num_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences together."""
        return len(self.token_ids)

    def starts(self) -> npt.NDArray[np.int64]:
        """Where each sequence starts, ``[num_sequences]``."""
        return np.cumsum(self.lengths, dtype=np.int64) - self.lengths


def shard_paths(folder: Path) -> list[Path]:
    """In the order they were written."""
    return sorted(folder.glob("shard-*.safetensors"))


def write_shard(folder: Path, dialogues: Dialogues, hidden: torch.Tensor | None = None) -> Path:
    """Adds one shard to the folder, which several processes may do at once.

    ``hidden``, bfloat16 ``[num_tokens, num_layers * hidden_size]``: the teacher's states of each token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(dialogues, name))) for name in ARRAYS}
    if hidden is not None:
        tensors[HIDDEN] = hidden.contiguous()
    temporary = folder / f"{os.getpid()}.partial"
    save_file(tensors, temporary)
    for index in itertools.count(len(shard_paths(folder))):
        path = folder / f"shard-{index:05d}.safetensors"
        try:
            path.hardlink_to(temporary)  # fails where another process took the name
        except FileExistsError:
            continue
        temporary.unlink()
        return path
    raise AssertionError("unreachable")


def remove_partial(folder: Path) -> None:
    """What killed processes left of shards that they were writing."""
    for path in folder.glob("*.partial"):
        if path.stem.isdecimal() and not Path(f"/proc/{path.stem}").exists():
            path.unlink(missing_ok=True)


def read_shards(folder: Path) -> Dialogues:
    """All shards as one. Raises ``FileNotFoundError`` when there are none."""
    paths = shard_paths(folder)
    if not paths:
        raise FileNotFoundError(f"there are no recordings in {folder}")
    return read_paths(paths)


def read_paths(paths: Iterable[Path]) -> Dialogues:
    """These shards as one, without their hidden states."""
    return joined(_read(path) for path in paths)


def _read(path: Path) -> Dialogues:
    with safe_open(path, "numpy") as file:
        return Dialogues(**{name: file.get_tensor(name) for name in ARRAYS})


def num_recorded(paths: Iterable[Path]) -> int:
    """Tokens of these shards together, by their headers."""
    num_tokens = 0
    for path in paths:
        with safe_open(path, "numpy") as file:
            num_tokens += file.get_slice("token_ids").get_shape()[0]
    return num_tokens


def num_sequences(paths: Iterable[Path]) -> int:
    """Dialogues of these shards together, by their headers."""
    count = 0
    for path in paths:
        with safe_open(path, "numpy") as file:
            count += file.get_slice("lengths").get_shape()[0]
    return count


def joined(parts: Iterable[Dialogues]) -> Dialogues:
    """One value of several."""
    arrays: Sequence[Dialogues] = list(parts)
    return Dialogues(**{name: np.concatenate([getattr(a, name) for a in arrays]) for name in ARRAYS})
