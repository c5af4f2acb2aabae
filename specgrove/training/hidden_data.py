"""Recorded dialogues as batches for the training of a hidden-state SSM. Used by ``hidden_training``, ``closed_form`` and ``acceptance``.

Hidden states stay on disk until a batch wants them: they are kilobytes a token. Invariant: how often each dialogue
was read is all the state there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open

from specgrove.training.shards import HIDDEN

_POOL = 64  # of the least read dialogues, from which a batch of similar lengths is taken


@dataclass(frozen=True, slots=True)
class HiddenBatch:
    """Dialogues side by side, padded behind. Place ``(b, i)`` is token i of dialogue b."""

    hidden: torch.Tensor  # float32 [num_dialogues, len, width]
    token_ids: torch.Tensor  # int64 [num_dialogues, len]
    is_made: torch.Tensor  # bool [num_dialogues, len]: the LLM made the token after this one; False in the padding
    top_ids: torch.Tensor  # int64 [num_dialogues, len, count]: the teacher's likeliest after this token
    top_probs: torch.Tensor  # float32 [num_dialogues, len, count], rows sum to 1 (padding: 0)

    @property
    def num_tokens(self) -> int:
        """Places that a batch has, with the padding."""
        return self.token_ids.numel()


@dataclass(frozen=True, slots=True)
class _Place:
    shard: int
    start: int
    length: int


class HiddenDialogues:
    """The dialogues of some shards. The first ``num_held_out`` are never chosen: calibration reads what training did not."""

    def __init__(self, paths: Sequence[Path], num_held_out: int = 0) -> None:
        self.num_held_out = num_held_out
        self._files: list[Any] = []
        self._places: list[_Place] = []
        for path in paths:
            file = safe_open(path, "pt")
            start = 0
            for length in file.get_tensor("lengths").tolist():  # type: ignore[no-untyped-call]
                self._places.append(_Place(len(self._files), start, length))
                start += length
            self._files.append(file)
        self._num_reads = [0] * len(self._places)

    @property
    def num_tokens(self) -> int:
        """Of the dialogues that may be chosen."""
        return sum(place.length for place in self._places[self.num_held_out :])

    @property
    def num_made(self) -> int:
        """Those of all dialogues that the LLM made."""
        return sum(int(file.get_tensor("is_made").sum()) for file in self._files)

    def __len__(self) -> int:
        """Dialogues."""
        return len(self._places)

    @property
    def num_reads(self) -> list[int]:
        """How often each dialogue was read: what a checkpoint keeps."""
        return list(self._num_reads)

    def restore(self, num_reads: Sequence[int]) -> None:
        """As a checkpoint has them. Raises ``ValueError`` where there are other dialogues now."""
        if len(num_reads) != len(self._places):
            raise ValueError(f"the checkpoint is of {len(num_reads)} dialogues, there are {len(self._places)} now")
        self._num_reads = list(num_reads)

    def choose(self, num_tokens: int, rng: np.random.Generator) -> list[int]:
        """Dialogues of about so many tokens and of similar lengths, from the least read; they count as read."""
        num_reads = np.array(self._num_reads[self.num_held_out :])
        order = np.argsort(num_reads + 0.9 * rng.random(len(num_reads)), kind="stable")[:_POOL]
        pool = self.num_held_out + order[num_reads[order] <= num_reads.min() + 1]
        lengths = np.array([self._places[index].length for index in pool])
        nearest = pool[np.argsort(np.abs(lengths - lengths[0]), kind="stable")]
        chosen: list[int] = []
        num_chosen = 0
        for index in nearest.tolist():
            if chosen and num_chosen + self._places[index].length > num_tokens:
                break
            chosen.append(index)
            num_chosen += self._places[index].length
            self._num_reads[index] += 1
        return chosen

    def batch(self, indices: Sequence[int], skipped: Sequence[int] | None = None) -> HiddenBatch:
        """These dialogues, each without its first ``skipped`` tokens: what an SSM sees that was not there at the beginning."""
        skipped = [0] * len(indices) if skipped is None else skipped
        places = [self._places[index] for index in indices]
        longest = max(place.length - skip for place, skip in zip(places, skipped, strict=True))
        parts = [self._part(place, skip) for place, skip in zip(places, skipped, strict=True)]

        def padded(name: str) -> torch.Tensor:
            tensors = [part[name] for part in parts]
            whole = tensors[0].new_zeros(len(tensors), longest, *tensors[0].shape[1:])
            for row, tensor in zip(whole, tensors, strict=True):
                row[: len(tensor)] = tensor
            return whole

        probs = padded("top_probs")
        return HiddenBatch(
            padded(HIDDEN).float(),
            padded("token_ids").long(),
            padded("is_made").bool(),
            padded("top_ids").long(),
            probs / probs.sum(-1, keepdim=True).clamp_min(1e-9),
        )

    def _part(self, place: _Place, skip: int) -> dict[str, torch.Tensor]:
        file, rows = self._files[place.shard], slice(place.start + skip, place.start + place.length)
        part = {name: file.get_slice(name)[rows] for name in (HIDDEN, "token_ids", "is_made", "top_ids")}
        part["top_probs"] = file.get_slice("top_log_probs")[rows].float().exp()
        return part

    def length(self, index: int) -> int:
        """Tokens of one dialogue."""
        return self._places[index].length

    def token_mass(self, vocab_size: int) -> npt.NDArray[np.float64]:
        """What the teacher gave to each token in all, ``[vocab_size]``."""
        mass = np.zeros(vocab_size)
        for file in self._files:
            ids, log_probs = file.get_tensor("top_ids").numpy(), file.get_tensor("top_log_probs").float().numpy()
            mass += np.bincount(ids.ravel(), np.exp(log_probs).ravel(), minlength=vocab_size)
        return mass
